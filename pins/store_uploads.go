package pins

import (
	"context"
	"errors"
	"time"

	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// uploadsKept is how long the keys of uploads are remembered.
const uploadsKept = 24 * time.Hour

// uploadsMigration makes the table of the keys of uploads. A row is written with its pin, in one transaction.
func uploadsMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261128_20_uploads",
		Migrate: func(tx *gorm.DB) error {
			for _, s := range []string{
				`CREATE TABLE pin_uploads (
					account    BIGINT NOT NULL,
					upload_key TEXT   NOT NULL,
					pin        TEXT   NOT NULL,
					pins       BIGINT NOT NULL,
					made_ms    BIGINT NOT NULL,
					PRIMARY KEY (account, upload_key, pin)
				)`,
				`CREATE INDEX pin_uploads_made ON pin_uploads (made_ms)`,
			} {
				if err := tx.Exec(s).Error; err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// AddUploaded is Add for a request that came with its bytes. What it remembers of u is durable with the pin.
func (s *Service) AddUploaded(ctx context.Context, account Account, r spec.Request, terms deals.TermsID, u Upload) (Pin, error) {
	t := s.sched.ticket(account, r.Root)
	a := newAddition(account, r, terms, t.claim)
	a.upload = u
	a, err := s.store.enqueue(ctx, a)
	return s.begin(ctx, t, a, err)
}

// Uploaded returns the pins that an upload with this key has made within the last day, oldest first, without those that
// were deleted since, and how many it was to make.
func (s *Service) Uploaded(ctx context.Context, account Account, key string) (made []Pin, of int, err error) {
	var rows []struct {
		Pin  ID
		Pins int
	}
	since := s.now().Add(-uploadsKept).UnixMilli()
	err = s.store.db.Read(ctx, func(tx *gorm.DB) error {
		rows = nil
		return tx.Raw(`SELECT pin, pins FROM pin_uploads WHERE account = ? AND upload_key = ? AND made_ms > ? ORDER BY made_ms, pin`,
			account, key, since).Scan(&rows).Error
	})
	if err != nil {
		return nil, 0, err
	}
	for _, row := range rows {
		of = row.Pins
		p, err := s.store.get(ctx, account, row.Pin)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		made = append(made, p)
	}
	return made, of, nil
}

// forgetUploads removes the keys that are remembered no longer.
func (s *store) forgetUploads(ctx context.Context) error {
	before := s.now().Add(-uploadsKept).UnixMilli()
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`DELETE FROM pin_uploads WHERE made_ms <= ?`, before).Error
	})
}
