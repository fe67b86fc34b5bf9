package pins

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/spec"
)

// uploadsKept is how long the keys of uploads are remembered.
const uploadsKept = 24 * time.Hour

// ErrOvertaken means that another process does what this one was doing: repeating the request gives its outcome.
var ErrOvertaken = errors.New("another server has taken the request over")

// uploadsMigration makes the table of the keys of uploads. A row is written with its pin, in one transaction.
func uploadsMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261128_20_uploads",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, []string{
				`CREATE TABLE pin_uploads (
					account    BIGINT NOT NULL,
					upload_key TEXT   NOT NULL,
					pin        TEXT   NOT NULL,
					pins       BIGINT NOT NULL,
					made_ms    BIGINT NOT NULL,
					PRIMARY KEY (account, upload_key, pin)
				)`,
				`CREATE INDEX pin_uploads_made ON pin_uploads (made_ms)`,
			})
		},
	}
}

// uploadClaimsMigration makes the table of the keys whose uploads are at work. It has a row for each of them only.
func uploadClaimsMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261128_60_upload_claims",
		Migrate: func(tx *gorm.DB) error {
			return tx.Exec(`CREATE TABLE pin_upload_claims (
				account    BIGINT NOT NULL,
				upload_key TEXT   NOT NULL,
				claimed_by TEXT   NOT NULL,
				PRIMARY KEY (account, upload_key)
			)`).Error
		},
	}
}

// A claimedKey is the key of an upload at work.
type claimedKey struct {
	account Account
	key     string
}

// BeginUpload claims a key for an upload, on behalf of this process, which must not claim it twice at once. It returns
// false while another process works on an upload with that key. A process that is taken for dead loses its claims.
func (s *Service) BeginUpload(ctx context.Context, account Account, key string) (claimed bool, err error) {
	err = s.store.db.Write(ctx, func(tx *gorm.DB) error {
		claimed, err = s.store.claimUpload(tx, claimedKey{account, key})
		return err
	})
	return claimed, err
}

func (s *store) claimUpload(tx *gorm.DB, k claimedKey) (claimed bool, err error) {
	fresh := tx.Exec(`INSERT INTO pin_upload_claims (account, upload_key, claimed_by) VALUES (?, ?, ?)
		ON CONFLICT (account, upload_key) DO NOTHING`, k.account, k.key, s.me)
	if fresh.Error != nil || fresh.RowsAffected > 0 {
		return fresh.Error == nil, fresh.Error
	}
	// Who has it is read first and whether he lives after that, so that nobody is missed who has come in between.
	holder, alive := "", int64(0)
	err = tx.Raw(`SELECT claimed_by FROM pin_upload_claims WHERE account = ? AND upload_key = ?`, k.account, k.key).Scan(&holder).Error
	if err != nil || holder == s.me {
		return err == nil, err
	}
	err = tx.Raw(`SELECT COUNT(*) FROM workers WHERE id = ?`, holder).Scan(&alive).Error
	if err != nil || alive > 0 {
		return false, err
	}
	taken := tx.Exec(`UPDATE pin_upload_claims SET claimed_by = ? WHERE account = ? AND upload_key = ? AND claimed_by = ?`,
		s.me, k.account, k.key, holder)
	return taken.RowsAffected > 0, taken.Error
}

// EndUpload gives a key back that BeginUpload has claimed, whether the upload has made its pins or not. What cannot be
// given back now is later.
func (s *Service) EndUpload(ctx context.Context, account Account, key string) {
	k := claimedKey{account, key}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	if err := s.store.unclaimUpload(ctx, k); err != nil {
		s.store.owedUploads.add(k)
	}
}

// endPatience is how long an answer waits for its key to be given back.
const endPatience = 5 * time.Second

func (s *store) unclaimUpload(ctx context.Context, k claimedKey) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`DELETE FROM pin_upload_claims WHERE account = ? AND upload_key = ? AND claimed_by = ?`, k.account, k.key, s.me).Error
	})
}

// owedClaims are claims that could not be given back.
type owedClaims[T any] struct {
	mu     sync.Mutex
	claims []T
}

func (o *owedClaims[T]) add(claims ...T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claims = append(o.claims, claims...)
}

func (o *owedClaims[T]) take() []T {
	o.mu.Lock()
	defer o.mu.Unlock()
	claims := o.claims
	o.claims = nil
	return claims
}

// holdUpload locks the claim of an upload until the transaction ends, so that nobody takes it over before its pin is
// committed. It fails when somebody has.
func (s *store) holdUpload(tx *gorm.DB, k claimedKey) error {
	held := tx.Exec(`UPDATE pin_upload_claims SET claimed_by = claimed_by WHERE account = ? AND upload_key = ? AND claimed_by = ?`,
		k.account, k.key, s.me)
	if held.Error == nil && held.RowsAffected == 0 {
		return ErrOvertaken
	}
	return held.Error
}

// Leftovers says that blocks were stored which no pin may need: the next collection looks for them. It never waits.
func (s *Service) Leftovers() { signal(s.sched.garbage) }

// AddUploaded is Add for a request that came with its bytes. What it remembers of u is durable with the pin. A key must
// have been claimed with BeginUpload; ErrOvertaken means that another process has taken the claim over.
func (s *Service) AddUploaded(ctx context.Context, account Account, r spec.Request, decided Decision, u Upload) (Pin, error) {
	t := s.sched.ticket(account, r.Root)
	a := newAddition(account, r, decided, t.claim)
	a.upload = u
	s.store.enqueue(a) //nolint:contextcheck // who inserts it serves others too
	return s.begin(ctx, t, a, s.store.inserted(ctx, a))
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

// forgetUploads removes the keys that are remembered no longer, and the claims of those whose upload has ended.
func (s *store) forgetUploads(ctx context.Context) error {
	var failed error
	for _, k := range s.owedUploads.take() {
		if err := s.unclaimUpload(ctx, k); err != nil {
			s.owedUploads.add(k)
			failed = err
		}
	}
	if failed != nil {
		return failed
	}
	before := s.now().Add(-uploadsKept).UnixMilli()
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return firstError(
			tx.Exec(`DELETE FROM pin_uploads WHERE made_ms <= ?`, before),
			tx.Exec(`DELETE FROM pin_upload_claims WHERE claimed_by NOT IN (SELECT id FROM workers)`),
		)
	})
}
