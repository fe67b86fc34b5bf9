package deals

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/crypto"
	"gorm.io/gorm"
)

// A provider's row has three parts with a writer each: the operator (decision), the prober (findings) and the maker
// (record). None of them writes another's columns, so they need not wait for each other.
const (
	decisionColumns = `trust, region, region_source, price_cap, min_piece, max_piece, concurrency, http, peer_id, addrs`
	providerColumns = `id, ` + decisionColumns + `, found, sector_size, ask, probed_ms, probe_error,
		score, successes, failures, streak, open_until_ms, last_error, http_found, http_found_ms`
)

// A foundRow is the JSON of the column found: where the chain says a provider is.
type foundRow struct {
	PeerID string   `json:"peer_id,omitempty"`
	Addrs  []string `json:"addrs,omitempty"`
}

// An askRow is the JSON of the column ask. Amounts are attoFIL in decimal text.
type askRow struct {
	Price         string `json:"price"`
	VerifiedPrice string `json:"verified_price"`
	MinPiece      uint64 `json:"min_piece"`
	MaxPiece      uint64 `json:"max_piece"`
	Expiry        Epoch  `json:"expiry"`
	Signed        []byte `json:"signed,omitempty"`
	SignatureType byte   `json:"signature_type,omitempty"`
	Signature     []byte `json:"signature,omitempty"`
}

func askToRow(a Ask) (string, error) {
	r := askRow{
		Price: decimal(a.Price), VerifiedPrice: decimal(a.VerifiedPrice),
		MinPiece: uint64(a.MinPiece), MaxPiece: uint64(a.MaxPiece), Expiry: a.Expiry, Signed: a.Signed,
	}
	if a.Signature != nil {
		r.SignatureType, r.Signature = byte(a.Signature.Type), a.Signature.Data
	}
	text, err := json.Marshal(r)
	return string(text), err
}

func askFromRow(text string) (*Ask, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // the provider has never answered, which is a value
	}
	var r askRow
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, err
	}
	a := &Ask{
		MinPiece: abi.PaddedPieceSize(r.MinPiece), MaxPiece: abi.PaddedPieceSize(r.MaxPiece),
		Expiry: r.Expiry, Signed: r.Signed,
	}
	if err := errors.Join(intoAmount{&a.Price}.Scan(r.Price), intoAmount{&a.VerifiedPrice}.Scan(r.VerifiedPrice)); err != nil {
		return nil, err
	}
	if len(r.Signature) > 0 {
		a.Signature = &crypto.Signature{Type: crypto.SigType(r.SignatureType), Data: r.Signature}
	}
	return a, nil
}

func scanProvider(from row) (p Provider, err error) {
	var priceCap, addrs, found, ask, urls string
	err = from.Scan(&p.ID, &p.Trust, &p.Region, &p.RegionSource, &priceCap, &p.MinPiece, &p.MaxPiece, &p.Concurrency, &p.HTTP,
		&p.PeerID, &addrs, &found, &p.SectorSize, &ask, intoTime{&p.ProbedAt}, &p.ProbeError,
		&p.Score, &p.Successes, &p.Failures, &p.Streak, intoTime{&p.OpenUntil}, &p.LastError, &urls,
		intoTime{&p.FoundAt})
	if err != nil {
		return Provider{}, err
	}
	p.Ask, err = askFromRow(ask)
	if priceCap != "" && err == nil {
		err = intoAmount{&p.PriceCap}.Scan(priceCap)
	}
	var at foundRow
	for text, into := range map[string]any{addrs: &p.Addrs, found: &at, urls: &p.Found} {
		if text != "" && err == nil {
			err = json.Unmarshal([]byte(text), into)
		}
	}
	if err != nil {
		return Provider{}, fmt.Errorf("reading provider %s: %w", p.ID, err)
	}
	p.Contact = p.contact(at.PeerID, at.Addrs)
	return p, nil
}

// contact is how to reach p: as the operator says, else as the chain says.
func (p Provider) contact(peerID string, addrs []string) Contact {
	c := Contact{Provider: p.ID, PeerID: peerID, Addrs: addrs, HTTP: p.HTTP}
	if p.PeerID != "" {
		c.PeerID = p.PeerID
	}
	if len(p.Addrs) > 0 {
		c.Addrs = p.Addrs
	}
	return c
}

// providerList returns the registry, by number.
func (s *store) providerList(ctx context.Context) (list []Provider, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			p, err := scanProvider(r)
			list = append(list, p)
			return err
		}, `SELECT `+providerColumns+` FROM providers ORDER BY id`)
	})
	return list, err
}

// provider reads one, and keeps others from changing it where tx writes.
func (s *store) provider(tx *gorm.DB, id ProviderID, lock bool) (Provider, error) {
	q := `SELECT ` + providerColumns + ` FROM providers p WHERE id = ?`
	if lock {
		q += forUpdate(tx, "p")
	}
	p, err := scanProvider(tx.Raw(q, int64(id)).Row())
	if errors.Is(err, sql.ErrNoRows) {
		return Provider{}, fmt.Errorf("%w: %s", ErrNoProvider, id)
	}
	return p, err
}

// readProvider reads one outside of a transaction.
func (s *store) readProvider(ctx context.Context, id ProviderID) (p Provider, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		var err error
		p, err = s.provider(tx, id, false)
		return err
	})
	return p, err
}

// saveDecision writes what the operator has decided, as a new provider or over what was decided before.
func (s *store) saveDecision(tx *gorm.DB, p Provider) error {
	priceCap := ""
	if !p.PriceCap.Nil() {
		priceCap = p.PriceCap.String()
	}
	addrs, err := json.Marshal(p.Addrs)
	if err != nil {
		return err
	}
	return tx.Exec(`INSERT INTO providers (id, `+decisionColumns+`, found, sector_size, ask, probed_ms, probe_error,
			score, successes, failures, streak, open_until_ms, last_error)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '', 0, '', 0, '', ?, 0, 0, 0, 0, '')
		ON CONFLICT (id) DO UPDATE SET trust = excluded.trust, region = excluded.region, region_source = excluded.region_source,
			price_cap = excluded.price_cap, min_piece = excluded.min_piece, max_piece = excluded.max_piece,
			concurrency = excluded.concurrency, http = excluded.http, peer_id = excluded.peer_id, addrs = excluded.addrs`,
		int64(p.ID), p.Trust, p.Region, p.RegionSource, priceCap, int64(p.MinPiece), int64(p.MaxPiece), p.Concurrency, p.HTTP,
		p.PeerID, string(addrs), newScore).Error
}

// saveFindings writes what a probe has found. A provider that was removed meanwhile stays removed. One that did not
// answer keeps its last ask, which may hold again when it does. wake lets slots look that wait for a provider.
func (s *store) saveFindings(ctx context.Context, id ProviderID, f findings, wake bool) error {
	set, args := `probed_ms = ?, probe_error = ?`, []any{ms(f.at), f.err}
	if f.found {
		found, err := json.Marshal(foundRow{PeerID: f.miner.PeerID, Addrs: f.miner.Addrs})
		if err != nil {
			return err
		}
		set, args = set+`, found = ?, sector_size = ?`, append(args, string(found), int64(f.miner.SectorSize))
	}
	if f.ask != nil {
		ask, err := askToRow(*f.ask)
		if err != nil {
			return err
		}
		set, args = set+`, ask = ?`, append(args, ask)
	}
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		err := tx.Exec(`UPDATE providers SET `+set+` WHERE id = ?`, append(args, int64(id))...).Error
		if err != nil || !wake {
			return err
		}
		return s.wakeSlots(tx, f.at)
	})
}

// probeSoon lets providers be asked now: the last answer counts as older by as much as it takes to be due, and stays
// usable meanwhile.
func (s *store) probeSoon(tx *gorm.DB, id ProviderID) error {
	return tx.Exec(`UPDATE providers SET probed_ms = CASE WHEN probed_ms > ? THEN probed_ms - ? ELSE 0 END WHERE id = ?`,
		askEvery.Milliseconds(), askEvery.Milliseconds(), int64(id)).Error
}

// outcome takes into account how a provider has served us. One that is no longer in the registry has no record.
func (s *store) outcome(tx *gorm.DB, id ProviderID, o Outcome, now time.Time) error {
	p, err := s.provider(tx, id, true)
	if errors.Is(err, ErrNoProvider) {
		return nil
	}
	if err != nil {
		return err
	}
	p = After(p, o, now)
	return tx.Exec(`UPDATE providers SET score = ?, successes = ?, failures = ?, streak = ?, open_until_ms = ?, last_error = ? WHERE id = ?`,
		p.Score, p.Successes, p.Failures, p.Streak, ms(p.OpenUntil), p.LastError, int64(id)).Error
}

// liveWith counts the attempts with a provider that are not final.
func (s *store) liveWith(tx *gorm.DB, id ProviderID) (n int64, err error) {
	err = tx.Raw(`SELECT count(*) FROM attempts WHERE provider = ? AND state IN `+liveStates, int64(id)).Row().Scan(&n)
	return n, err
}

func (s *store) deleteProvider(tx *gorm.DB, id ProviderID) error {
	return tx.Exec(`DELETE FROM providers WHERE id = ?`, int64(id)).Error
}

// wakeAtOnce bounds how many slots are woken in one transaction; the others look again when their pause is over.
const wakeAtOnce = 10_000

// wakeSlots lets slots that wait for a provider look again now, as if it were the first time. Those in the queue are looked
// at anyway.
func (s *store) wakeSlots(tx *gorm.DB, now time.Time) error {
	return tx.Exec(`UPDATE slots SET next_ms = ?, waits = 0 WHERE id IN (
		SELECT id FROM slots WHERE state <> 'closed' AND queued = 0 AND state = 'open' AND next_ms > ? ORDER BY next_ms LIMIT ?)`,
		ms(now), ms(now), wakeAtOnce).Error
}
