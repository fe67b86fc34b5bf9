package deals

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals/piece"
)

// A DB runs functions in transactions. One that is called with the context of a transaction joins it.
type DB interface {
	// Read runs fn on one snapshot that includes every write acknowledged before.
	Read(ctx context.Context, fn func(tx *gorm.DB) error) error
	// Write runs fn, perhaps more than once, and returns nil only after its commit is durable.
	Write(ctx context.Context, fn func(tx *gorm.DB) error) error
}

// store keeps what the package knows. Its files are the only ones that know SQL.
type store struct {
	db     DB
	now    func() time.Time
	policy Policy
	me     string // this process in the row of the maker
	// head is the height of the chain as this process last saw it, or 0.
	head atomic.Int64
	// released counts the deals whose escrow the chain locked while this process watched: what was read of our funds
	// before one is out of date after it.
	released atomic.Uint64
	// paid tells whether anybody pays for another deal for a wish, in the transaction that would plan it; nil: always.
	paid func(ctx context.Context, w Wish) (bool, error)

	// bill takes what deals cost, in the transaction that records it as taken; nil: nobody does.
	bill func(ctx context.Context, costs []Cost) error

	// follow is called in each transaction that changes a standing; nil when nobody follows.
	follow func(ctx context.Context, w Wish, s Standing) error
}

type row interface{ Scan(dest ...any) error }

// query runs a query and gives each row to scan.
func query(tx *gorm.DB, scan func(row) error, sql string, args ...any) (err error) {
	rows, err := tx.Raw(sql, args...).Rows()
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

func notFound(err error) bool { return errors.Is(err, sql.ErrNoRows) }

// forUpdate keeps others from changing the rows of a table until the transaction ends. On SQLite a transaction that
// writes is alone.
func forUpdate(tx *gorm.DB, alias string) string {
	if tx.Name() == "postgres" {
		return ` FOR UPDATE OF ` + alias
	}
	return ""
}

// clock is the database's own time in Unix milliseconds: leases of several servers are compared by one clock.
func clock(tx *gorm.DB) string {
	if tx.Name() == "sqlite" {
		return `CAST(unixepoch('subsec') * 1000 AS BIGINT)`
	}
	return `CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)`
}

// ms is how a time is stored; the zero time is 0.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// fromMS is the time that ms has stored.
func fromMS(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// text is how a CID is stored; an undefined one is empty.
func text(c cid.Cid) string {
	if !c.Defined() {
		return ""
	}
	return c.String()
}

// decimal is how attoFIL are stored.
func decimal(v abi.TokenAmount) string {
	if v.Nil() {
		return "0"
	}
	return v.String()
}

// The types below read a column into a field.
type (
	intoTime   struct{ t *time.Time }
	intoCID    struct{ c *cid.Cid }
	intoAmount struct{ a *abi.TokenAmount }
)

// Scan implements sql.Scanner.
func (i intoTime) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("reading a time from %T", v)
	}
	*i.t = fromMS(n)
	return nil
}

// Scan implements sql.Scanner.
func (i intoCID) Scan(v any) error {
	s, err := asText(v)
	if err != nil {
		return err
	}
	if *i.c = cid.Undef; s == "" {
		return nil
	}
	if *i.c, err = cid.Decode(s); err != nil {
		return fmt.Errorf("decoding a stored cid: %w", err)
	}
	return nil
}

// Scan implements sql.Scanner.
func (i intoAmount) Scan(v any) error {
	s, err := asText(v)
	if err != nil {
		return err
	}
	if *i.a, err = big.FromString(s); err != nil {
		return fmt.Errorf("reading a stored amount: %w", err)
	}
	return nil
}

func asText(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	}
	return "", fmt.Errorf("reading text from %T", v)
}

// pieceColumns are read by pieceTargets; those of an outer join may be NULL.
const pieceColumns = `p.id, p.cid_v1, p.cid_v2, p.size, p.raw_size, p.car_size`

// A pieceRow is a piece as a join returns it.
type pieceRow struct {
	id, size, raw, car sql.NullInt64
	v1, v2             sql.NullString
}

func (p *pieceRow) targets() []any { return []any{&p.id, &p.v1, &p.v2, &p.size, &p.raw, &p.car} }

// piece returns what was read, or nil where there was nothing.
func (p *pieceRow) piece() (*piece.Piece, error) {
	if !p.id.Valid {
		return nil, nil //nolint:nilnil // there is no piece, and that is no error
	}
	out := &piece.Piece{Size: abi.PaddedPieceSize(p.size.Int64), RawSize: p.raw.Int64, CARSize: p.car.Int64} //nolint:gosec // a size
	if err := errors.Join(intoCID{&out.CIDv1}.Scan(p.v1.String), intoCID{&out.CIDv2}.Scan(p.v2.String)); err != nil {
		return nil, err
	}
	return out, nil
}

// addPiece records a piece and that root lies in it whole, and returns its row.
func (s *store) addPiece(tx *gorm.DB, root cid.Cid, p piece.Piece) (id int64, err error) {
	err = tx.Exec(`INSERT INTO pieces (cid_v1, cid_v2, size, raw_size, car_size) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		text(p.CIDv1), text(p.CIDv2), uint64(p.Size), p.RawSize, p.CARSize).Error
	if err != nil {
		return 0, err
	}
	if err := tx.Raw(`SELECT id FROM pieces WHERE cid_v1 = ? AND size = ?`, text(p.CIDv1), uint64(p.Size)).Row().Scan(&id); err != nil {
		return 0, err
	}
	return id, tx.Exec(`INSERT INTO piece_roots (piece_id, root, at, length) VALUES (?, ?, 0, ?) ON CONFLICT DO NOTHING`,
		id, text(root), p.CARSize).Error
}

// pieceOf returns the smallest piece that holds a root whole, if one was made.
func (s *store) pieceOf(ctx context.Context, root cid.Cid) (p *piece.Piece, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		p = nil
		return query(tx, func(r row) error {
			var read pieceRow
			if err := r.Scan(read.targets()...); err != nil {
				return err
			}
			p, err = read.piece()
			return err
		}, `SELECT `+pieceColumns+` FROM piece_roots pr JOIN pieces p ON p.id = pr.piece_id
			WHERE pr.root = ? AND pr.at = 0 AND pr.length = p.car_size ORDER BY p.size LIMIT 1`, text(root))
	})
	return p, err
}

// recordTerms returns the number of terms, which it records where they are new.
func (s *store) recordTerms(ctx context.Context, t Terms) (id TermsID, err error) {
	find := func(tx *gorm.DB) error {
		err := tx.Raw(`SELECT id FROM deal_terms WHERE terms = ?`, t.String()).Row().Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			id, err = 0, nil
		}
		return err
	}
	if err := s.db.Read(ctx, find); err != nil || id != 0 {
		return id, err
	}
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		if err := tx.Exec(`INSERT INTO deal_terms (terms) VALUES (?) ON CONFLICT DO NOTHING`, t.String()).Error; err != nil {
			return err
		}
		return find(tx)
	})
	return id, err
}

// termsOf returns recorded terms, or ErrNotFound.
func (s *store) termsOf(ctx context.Context, id TermsID) (t Terms, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		var stored string
		err := tx.Raw(`SELECT terms FROM deal_terms WHERE id = ?`, int64(id)).Row().Scan(&stored)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("looking up terms %d: %w", id, ErrNotFound)
		}
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(stored), &t)
	})
	return t, err
}
