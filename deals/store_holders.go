package deals

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"
)

// holdersQuery reads the active attempts of a root with their providers. An index finds the handful that a root has, and
// all others are joined by their primary keys.
const holdersQuery = `SELECT a.provider, coalesce(r.trust, 'neutral'), coalesce(r.http, ''), coalesce(r.peer_id, ''), coalesce(r.addrs, ''),
	coalesce(r.found, ''), coalesce(r.http_found, ''), coalesce(r.http_found_ms, 0), coalesce(pr.at, 0), ` + pieceColumns + `
	FROM attempts a JOIN pieces p ON p.id = a.piece_id
	LEFT JOIN piece_roots pr ON pr.piece_id = a.piece_id AND pr.root = a.root
	LEFT JOIN providers r ON r.id = a.provider
	WHERE a.root = ? AND a.state = 'active' ORDER BY a.provider, a.end_epoch DESC`

// holders returns one holder for each provider: with the deal that ends last, where one renews another.
func (s *store) holders(ctx context.Context, root cid.Cid) (all []Holder, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all = nil
		return query(tx, func(r row) error {
			h, err := scanHolder(r)
			if err != nil {
				return err
			}
			if n := len(all); n == 0 || all[n-1].Provider != h.Provider {
				all = append(all, h)
			}
			return nil
		}, holdersQuery, text(root))
	})
	return all, err
}

func scanHolder(from row) (Holder, error) {
	var known Provider
	var addrs, found, urls string
	var h Holder
	var p pieceRow
	dest := []any{&known.ID, &known.Trust, &known.HTTP, &known.PeerID, &addrs, &found, &urls, intoTime{&h.FoundAt}, &h.Offset}
	if err := from.Scan(append(dest, p.targets()...)...); err != nil {
		return Holder{}, err
	}
	held, err := p.piece()
	if err != nil {
		return Holder{}, err
	}
	var at foundRow
	for text, into := range map[string]any{addrs: &known.Addrs, found: &at, urls: &h.Found} {
		if text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(text), into); err != nil {
			return Holder{}, fmt.Errorf("reading provider %s: %w", known.ID, err)
		}
	}
	h.Provider, h.Trust, h.HTTP, h.Piece = known.ID, known.Trust, known.HTTP, *held
	h.Contact = known.contact(at.PeerID, at.Addrs)
	return h, nil
}

// copiesQuery is ordered as attempts_root is: a page reads as many rows as it has, and those of deals that are over.
const copiesQuery = `SELECT DISTINCT root, provider FROM attempts WHERE (root, provider) > (?, ?) AND state = 'active'
	ORDER BY root, provider LIMIT ?`

func (s *store) copies(ctx context.Context, after CopyRef, limit int) (all []CopyRef, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		all = make([]CopyRef, 0, limit)
		return query(tx, func(r row) error {
			var c CopyRef
			err := r.Scan(intoCID{&c.Root}, &c.Provider)
			all = append(all, c)
			return err
		}, copiesQuery, text(after.Root), int64(after.Provider), limit) //nolint:gosec // a provider's number fits
	})
	return all, err
}

// saveLocation writes where a provider says that it serves. One that was removed meanwhile stays removed.
func (s *store) saveLocation(ctx context.Context, id ProviderID, urls []string, at time.Time) error {
	encoded, err := json.Marshal(urls)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE providers SET http_found = ?, http_found_ms = ? WHERE id = ?`, string(encoded), ms(at), int64(id)).Error //nolint:gosec // a provider's number fits
	})
}

// someCopy returns a root with an active attempt with a provider.
func (s *store) someCopy(ctx context.Context, id ProviderID) (root cid.Cid, found bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		root, found = cid.Undef, false
		return query(tx, func(r row) error {
			found = true
			return r.Scan(intoCID{&root})
		}, `SELECT root FROM attempts WHERE provider = ? AND state = 'active' LIMIT 1`, int64(id)) //nolint:gosec // a provider's number fits
	})
	return root, found, err
}
