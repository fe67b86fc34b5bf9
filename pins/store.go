package pins

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// A DB runs functions in transactions.
type DB interface {
	// Read runs fn on one snapshot that includes every write acknowledged before.
	Read(ctx context.Context, fn func(tx *gorm.DB) error) error
	// Write runs fn, perhaps more than once, and returns nil only after its commit is durable.
	Write(ctx context.Context, fn func(tx *gorm.DB) error) error
}

// Errors a caller may meet.
var (
	ErrNotFound = errors.New("no such pin") // also another account's pin
	errStale    = errors.New("the root is no longer what it was")
)

// store keeps pins and roots. Its files are the only ones of the package that know SQL.
type store struct {
	db  DB
	now func() time.Time
	me  string // this process in roots.claimed_by

	archive Archive     // nil: nothing is stored cold
	source  bool        // cold copies can be read back
	rule    PinnedWhen  // asks for nothing where there is no archive
	owing   atomic.Bool // there was an archive once, which has to be told later what happens now

	journal Journal // nil: nothing is recorded

	room func() Room // as of now

	counter counter

	searches *searches

	spans       spanSizes
	spansWanted chan Account // those that a search has found without

	overdue chan struct{} // more was kept for a pin that is held now than was let go at once

	owedUploads owedClaims[claimedKey]
	owedBatches owedClaims[*Batch]
}

func newStore(db DB, now func() time.Time, archive Archive, rule PinnedWhen) *store {
	s := &store{
		db: db, now: now, me: uuid.NewString(), archive: archive, counter: counter{looking: map[int64]*addition{}},
		room: func() Room { return RoomPlenty }, spans: usualSpans, spansWanted: make(chan Account, 1), overdue: make(chan struct{}, 1),
		searches: newSearches(),
	}
	s.owing.Store(true) // until begin has looked
	if archive != nil {
		s.rule = rule
	}
	return s
}

// What scanRoot and scanPin read. A pin is read with what is known of its DAG and no more: lists read many.
const (
	dagColumns  = `r.hot, r.attempts, r.next_ms, r.blocks, r.bytes, r.reason`
	rootColumns = `r.id, r.cid, r.account, r.wanted_ms, r.lost, r.uploaded, CASE WHEN r.verified_ms < 0 THEN 1 ELSE 0 END, ` + dagColumns
	pinColumns  = `p.id, p.created_ms, p.cid, p.name, p.origins, p.dropped, p.meta, p.terms, p.residence, p.expires_ms, p.lapsed_ms, r.verified_ms, ` + dagColumns
)

type row interface{ Scan(dest ...any) error }

// targets returns where Scan puts dagColumns; nextMS becomes NextAt afterwards.
func (d *DAG) targets(nextMS *int64) []any {
	return []any{&d.Hot, &d.Attempts, nextMS, &d.Blocks, &d.Bytes, &d.Reason}
}

func fromMS(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// scanRoot reads rootColumns, and further columns into more.
func scanRoot(from row, more ...any) (r Root, err error) {
	var text string
	var wantedMS, nextMS, lost, uploaded, damaged int64
	dest := append([]any{&r.id, &text, &r.Account, &wantedMS, &lost, &uploaded, &damaged}, r.targets(&nextMS)...)
	if err := from.Scan(append(dest, more...)...); err != nil {
		return Root{}, err
	}
	if r.CID, err = cid.Decode(text); err != nil {
		return Root{}, fmt.Errorf("decoding the cid of root %d: %w", r.id, err)
	}
	r.WantedAt, r.NextAt, r.Lost = fromMS(wantedMS), fromMS(nextMS), lost == 1
	r.Damaged, r.Uploaded = damaged == 1, uploaded == 1
	return r, nil
}

// scanPin reads pinColumns of a pin of account.
func scanPin(from row, account Account) (p Pin, err error) {
	p.Account = account
	var createdMS, nextMS, verifiedMS int64
	var origins, meta sql.NullString
	var terms, expires, lapsed sql.NullInt64
	dest := append([]any{&p.ID, &createdMS, &p.CID, &p.Name, &origins, &p.Dropped, &meta, &terms, &p.Residence, &expires, &lapsed, &verifiedMS}, p.DAG.targets(&nextMS)...)
	if err := from.Scan(dest...); err != nil {
		return Pin{}, err
	}
	root, err := cid.Decode(p.CID)
	if err != nil {
		return Pin{}, fmt.Errorf("decoding the cid of pin %s: %w", p.ID, err)
	}
	p.Root, p.Created, p.DAG.NextAt, p.Terms = spec.Canonical(root), fromMS(createdMS), fromMS(nextMS), termsOf(terms)
	if verifiedMS > 0 && p.DAG.Hot == HotHeld { // below zero: found damaged
		p.Verified = fromMS(verifiedMS)
	}
	if expires.Valid {
		p.Expires = fromMS(expires.Int64)
	}
	if lapsed.Valid {
		// What others have of the DAG is nothing to a pin that was let go.
		p.Lapsed = fromMS(lapsed.Int64)
		p.Verified, p.DAG = time.Time{}, lapsedDAG(p.Lapsed)
	}
	if err := errors.Join(fromJSON(origins, &p.Origins), fromJSON(meta, &p.Meta)); err != nil {
		return Pin{}, fmt.Errorf("reading pin %s: %w", p.ID, err)
	}
	return p, nil
}

// toJSON stores an absent list or map as NULL.
func toJSON[T []string | map[string]string](v T) (sql.NullString, error) {
	if v == nil {
		return sql.NullString{}, nil
	}
	b, err := json.Marshal(v)
	return sql.NullString{String: string(b), Valid: true}, err
}

func fromJSON(s sql.NullString, into any) error {
	if !s.Valid {
		return nil
	}
	return json.Unmarshal([]byte(s.String), into)
}

// lockRoot reads a root and keeps others from changing it until the transaction ends. Whoever looks at the
// references of a root locks it first: two transactions that each remove one of the last two must not both see the
// other's still there.
func lockRoot(tx *gorm.DB, where string, args ...any) (root Root, claimedBy string, err error) {
	q := `SELECT ` + rootColumns + `, r.claimed_by FROM roots r WHERE ` + where
	if tx.Name() == "postgres" {
		q += ` FOR UPDATE`
	}
	root, err = scanRoot(tx.Raw(q, args...).Row(), &claimedBy)
	if errors.Is(err, sql.ErrNoRows) {
		return Root{}, "", errStale
	}
	return root, claimedBy, err
}

// saveRoot writes a root that lockRoot has read, with the status of its pins, and tells the archive when it became held
// or no longer is.
func (s *store) saveRoot(tx *gorm.DB, before, after Root, claimedBy string) error {
	lost, uploaded := 0, 0
	if after.Lost {
		lost = 1
	}
	if after.Uploaded && after.Hot.waits() {
		uploaded = 1
	}
	err := tx.Exec(`UPDATE roots SET hot = ?, account = ?, attempts = ?, wanted_ms = ?, next_ms = ?, claimed_by = ?,
		blocks = ?, bytes = ?, reason = ?, lost = ?, uploaded = ? WHERE id = ?`,
		after.Hot, after.Account, after.Attempts, after.WantedAt.UnixMilli(), after.NextAt.UnixMilli(), claimedBy,
		after.Blocks, after.Bytes, after.Reason, lost, uploaded, after.id).Error
	if err != nil {
		return err
	}
	if (before.Hot == HotHeld) != (after.Hot == HotHeld) {
		if err := errors.Join(s.heldChanged(tx, after), s.hotHoldings(tx, after)); err != nil {
			return err
		}
	}
	if err := saveRefusals(tx, before, after); err != nil {
		return err
	}
	if err := s.tellHot(tx.Statement.Context, before, after); err != nil {
		return err
	}
	was, is := hotStatus(before.Hot), hotStatus(after.Hot)
	cold := s.coldDecides(after.Hot)
	if was == is && !cold && !s.coldDecides(before.Hot) {
		return nil
	}
	if err := tx.Exec(`UPDATE pins SET status = ? WHERE root_id = ? AND status <> ? AND lapsed_ms IS NULL`, is, after.id, is).Error; err != nil {
		return err
	}
	if cold {
		return s.restateCold(tx, after)
	}
	return nil
}

// coldDecides tells whether the cold copies of a root in this state take part in the status of its pins.
func (s *store) coldDecides(hot Hot) bool {
	return hot.readsCold() || hot == HotHeld && !s.rule.hotOnly()
}

// hotStatus is the status of pins that want nothing cold.
func hotStatus(hot Hot) spec.Status { return StatusOf(hot, deals.Standing{}, PinnedWhen{}) }

// query runs a query and gives each row to scan.
func query(tx *gorm.DB, scan func(row) error, sql string, args ...any) (err error) {
	rows, err := rowsFor(tx, sql, args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// rowsFor asks the connection itself where there is nothing for gorm to translate: SQLite takes our placeholders as
// they are, and gorm's work on a statement costs as much as many a statement.
func rowsFor(tx *gorm.DB, sql string, args []any) (*sql.Rows, error) {
	if tx.Name() != "sqlite" || slices.ContainsFunc(args, isList) {
		return tx.Raw(sql, args...).Rows()
	}
	return tx.Statement.ConnPool.QueryContext(tx.Statement.Context, sql, args...)
}

// exec runs a statement whose arguments are single values, like rowsFor without gorm where that adds nothing.
func exec(tx *gorm.DB, sql string, args []any) error {
	if tx.Name() != "sqlite" {
		return tx.Exec(sql, args...).Error
	}
	_, err := tx.Statement.ConnPool.ExecContext(tx.Statement.Context, sql, args...)
	return err
}

func isList(arg any) bool {
	switch arg.(type) {
	case []string, []int64, []spec.Status, [][]any:
		return true
	}
	return false
}

// counts returns the number of pins per status over all accounts.
func (s *store) counts(ctx context.Context) (map[spec.Status]int64, error) {
	counts := map[spec.Status]int64{spec.Queued: 0, spec.Pinning: 0, spec.Pinned: 0, spec.Failed: 0}
	err := s.db.Read(ctx, func(tx *gorm.DB) error {
		return query(tx, func(r row) error {
			var status spec.Status
			var n int64
			if err := r.Scan(&status, &n); err != nil {
				return err
			}
			counts[status] = n
			return nil
		}, `SELECT status, CAST(sum(n) AS BIGINT) FROM pin_counts WHERE level = 3 GROUP BY status`)
	})
	return counts, err
}
