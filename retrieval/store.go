package retrieval

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// A DB runs transactions. Write returns nil only after a durable commit; both may run fn more than once.
type DB interface {
	Read(ctx context.Context, fn func(tx *gorm.DB) error) error
	Write(ctx context.Context, fn func(tx *gorm.DB) error) error
}

type store struct {
	db  DB
	now func() time.Time
}

type providerRow struct {
	Provider string `gorm:"primaryKey"`
	Success  float64
	FirstUS  int64 `gorm:"column:first_us"`
	Streak   int
	UntilMS  int64 `gorm:"column:until_ms"`
	Lies     int64
	SeenMS   int64 `gorm:"column:seen_ms"`
}

func (providerRow) TableName() string { return "retrieval_providers" }

// forget is how long a provider is remembered that is not used.
const forget = 180 * 24 * time.Hour

// maxRecalled is how many providers are read at the start: more than there are on the network.
const maxRecalled = 10_000

func (s *store) providers(ctx context.Context) (map[string]record, error) {
	var rows []providerRow
	err := s.db.Read(ctx, func(tx *gorm.DB) error {
		rows = nil
		return tx.Where("seen_ms > ?", s.now().Add(-forget).UnixMilli()).Order("seen_ms DESC").Limit(maxRecalled).Find(&rows).Error
	})
	out := make(map[string]record, len(rows))
	for _, r := range rows {
		out[r.Provider] = record{
			success: r.Success, first: time.Duration(r.FirstUS) * time.Microsecond, streak: r.Streak,
			until: time.UnixMilli(r.UntilMS), lies: r.Lies,
		}
	}
	return out, err
}

// keep stores records, and deletes those that are too old to be read again.
func (s *store) keep(ctx context.Context, records map[string]record) error {
	if len(records) == 0 {
		return nil
	}
	rows := make([]providerRow, 0, len(records))
	for name, r := range records {
		rows = append(rows, providerRow{
			Provider: name, Success: r.success, FirstUS: r.first.Microseconds(), Streak: r.streak,
			UntilMS: max(0, r.until.UnixMilli()), Lies: r.lies, SeenMS: s.now().UnixMilli(),
		})
	}
	// In one order, so that two servers do not wait for each other's rows.
	slices.SortFunc(rows, func(a, b providerRow) int { return strings.Compare(a.Provider, b.Provider) })
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		if err := tx.Clauses(clause.OnConflict{UpdateAll: true}).CreateInBatches(rows, 100).Error; err != nil {
			return err
		}
		return tx.Where("seen_ms <= ?", s.now().Add(-forget).UnixMilli()).Delete(&providerRow{}).Error
	})
}

type proofRow struct {
	Root     string `gorm:"primaryKey"`
	Provider string `gorm:"primaryKey"`
	ProvenMS int64  `gorm:"column:proven_ms"`
	FailedMS int64  `gorm:"column:failed_ms"`
	Reason   string
}

func (proofRow) TableName() string { return "retrieval_proofs" }

// A proof is when one copy was last read back, and when that last failed; zero for never.
type proof struct{ proven, failed time.Time }

func (p proof) last() time.Time {
	if p.failed.After(p.proven) {
		return p.failed
	}
	return p.proven
}

func (s *store) proofs(ctx context.Context, root cid.Cid) (map[string]proof, error) {
	var rows []proofRow
	err := s.db.Read(ctx, func(tx *gorm.DB) error {
		rows = nil
		return tx.Where("root = ?", root.String()).Find(&rows).Error
	})
	moment := func(ms int64) time.Time {
		if ms == 0 {
			return time.Time{}
		}
		return time.UnixMilli(ms)
	}
	out := make(map[string]proof, len(rows))
	for _, r := range rows {
		out[r.Provider] = proof{moment(r.ProvenMS), moment(r.FailedMS)}
	}
	return out, err
}

// maxReason bounds, in bytes, what is kept of why a copy could not be read back.
const maxReason = 500

// storable is the start of a text in which there may be what a stranger says, fit for a database: PostgreSQL refuses a row
// with a NUL, or with bytes that are no UTF-8.
func storable(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxReason)], "\uFFFD")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, text)
}

// proved records that a copy was read back, or that it could not be, for a reason.
func (s *store) proved(ctx context.Context, root cid.Cid, provider string, at time.Time, reason string) error {
	row := proofRow{Root: root.String(), Provider: provider, Reason: storable(reason)}
	set := []string{"proven_ms", "reason"}
	if reason == "" {
		row.ProvenMS = at.UnixMilli()
	} else {
		row.FailedMS = at.UnixMilli()
		set[0] = "failed_ms"
	}
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Clauses(clause.OnConflict{
			Columns: []clause.Column{{Name: "root"}, {Name: "provider"}}, DoUpdates: clause.AssignmentColumns(set),
		}).Create(&row).Error
	})
}
