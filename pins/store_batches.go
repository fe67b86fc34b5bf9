package pins

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/go-gormigrate/gormigrate/v2"
	"github.com/google/uuid"
	"gorm.io/gorm"
)

// ErrOtherBatch means that a key was used for another list.
var ErrOtherBatch = errors.New("this key was used for another list of pins")

// batchesMigration makes the tables of the keys of lists. A row of pin_batches is there before any pin of its list, and is
// claimed while the list is recorded; a row of pin_batch_pins is written with its pin, in one transaction.
func batchesMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_20_batch_claims",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, []string{
				`CREATE TABLE pin_batches (
					account    BIGINT NOT NULL,
					batch_key  TEXT   NOT NULL,
					body       TEXT   NOT NULL,
					claim      TEXT   NOT NULL,
					claimed_by TEXT   NOT NULL,
					made_ms    BIGINT NOT NULL,
					PRIMARY KEY (account, batch_key)
				)`,
				`CREATE INDEX pin_batches_made ON pin_batches (made_ms)`,
				`CREATE TABLE pin_batch_pins (
					account   BIGINT NOT NULL,
					batch_key TEXT   NOT NULL,
					place     BIGINT NOT NULL,
					pin       TEXT   NOT NULL,
					PRIMARY KEY (account, batch_key, place)
				)`,
			})
		},
	}
}

// A Batch is a list of requests that is being recorded. The zero Batch has no key, and nothing of it is remembered.
type Batch struct {
	// Made is what the list has made before, by place. ErrNotFound: the pin was removed since.
	Made map[int]Result

	key   claimedKey
	claim string // of this call alone
}

// BeginBatch claims the key of a list, and waits while somebody else records it, here or on another server. The caller
// ends it with EndBatch. Keys are remembered for a day; without one every list is new. Errors: ErrOtherBatch when the key
// was used with another body.
func (s *Service) BeginBatch(ctx context.Context, account Account, key string, body []byte) (*Batch, error) {
	if key == "" {
		return &Batch{}, nil
	}
	b := &Batch{key: claimedKey{account, key}, claim: uuid.NewString()}
	sum := sha256.Sum256(body)
	for {
		claimed, err := s.store.claimBatch(ctx, b, hex.EncodeToString(sum[:]))
		if err == nil && claimed {
			b.Made, err = s.store.madeBy(ctx, account, key)
		}
		switch {
		case err != nil:
			s.EndBatch(ctx, b) // an error does not say that it was not claimed
			return nil, fmt.Errorf("beginning a list of pins: %w", err)
		case claimed:
			return b, nil
		}
		select {
		case <-time.After(batchLook):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// batchLook is the time between two looks whether somebody else has ended a list.
const batchLook = 200 * time.Millisecond

// EndBatch gives the key of a list back. What cannot be given back now is later.
func (s *Service) EndBatch(ctx context.Context, b *Batch) {
	if b.claim == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	if err := s.store.unclaimBatch(ctx, b); err != nil {
		s.store.owedBatches.add(b)
	}
}

func (s *store) claimBatch(ctx context.Context, b *Batch, body string) (claimed bool, err error) {
	busy := false
	err = s.db.Read(ctx, func(tx *gorm.DB) error { // who waits keeps no writer waiting
		_, busy, err = batchClaim(tx, b.key, body)
		return err
	})
	if err != nil || busy {
		return false, err
	}
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		claimed, err = s.takeBatch(tx, b, body)
		return err
	})
	return claimed, err
}

func (s *store) takeBatch(tx *gorm.DB, b *Batch, body string) (taken bool, err error) {
	fresh := tx.Exec(`INSERT INTO pin_batches (account, batch_key, body, claim, claimed_by, made_ms) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (account, batch_key) DO NOTHING`, b.key.account, b.key.key, body, b.claim, s.me, s.now().UnixMilli())
	if fresh.Error != nil || fresh.RowsAffected > 0 {
		return fresh.Error == nil, fresh.Error
	}
	claim, busy, err := batchClaim(tx, b.key, body)
	if err != nil || busy {
		return false, err
	}
	mine := tx.Exec(`UPDATE pin_batches SET claim = ?, claimed_by = ? WHERE account = ? AND batch_key = ? AND claim = ?`,
		b.claim, s.me, b.key.account, b.key.key, claim)
	return mine.RowsAffected > 0, mine.Error
}

// batchClaim returns the claim on a list that is there, and whether who has it lives. Errors: ErrOtherBatch.
func batchClaim(tx *gorm.DB, k claimedKey, body string) (claim string, busy bool, err error) {
	// Who has it is read first and whether he lives after that, so that nobody is missed who has come in between.
	var held struct{ Body, Claim, ClaimedBy string }
	err = tx.Raw(`SELECT body, claim, claimed_by FROM pin_batches WHERE account = ? AND batch_key = ?`, k.account, k.key).Scan(&held).Error
	switch {
	case err != nil || held.Body == "": // it is new, or was forgotten just now
		return "", false, err
	case held.Body != body:
		return "", false, ErrOtherBatch
	case held.Claim == "":
		return "", false, nil
	}
	alive := int64(0)
	err = tx.Raw(`SELECT COUNT(*) FROM workers WHERE id = ?`, held.ClaimedBy).Scan(&alive).Error
	return held.Claim, alive > 0, err
}

func (s *store) unclaimBatch(ctx context.Context, b *Batch) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE pin_batches SET claim = '', claimed_by = '' WHERE account = ? AND batch_key = ? AND claim = ?`,
			b.key.account, b.key.key, b.claim).Error
	})
}

// madeBy returns what a list has made, by place, from one snapshot.
func (s *store) madeBy(ctx context.Context, account Account, key string) (made map[int]Result, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		var there Page
		err := appendPins(tx, account, &there, `SELECT `+pinColumns+` FROM pin_batch_pins b JOIN pins p ON p.id = b.pin JOIN roots r ON r.id = p.root_id
			WHERE b.account = ? AND b.batch_key = ?`, account, key)
		if err == nil {
			err = addRefusals(tx, account, there.Pins)
		}
		if err == nil {
			err = s.addStandings(tx, there.Pins)
		}
		if err != nil {
			return err
		}
		byID := make(map[ID]Pin, len(there.Pins))
		for _, p := range there.Pins {
			byID[p.ID] = p
		}
		made = map[int]Result{}
		return query(tx, func(r row) error {
			var place int
			var id ID
			err := r.Scan(&place, &id)
			if p, ok := byID[id]; ok {
				made[place] = Result{Pin: p}
			} else {
				made[place] = Result{Err: ErrNotFound}
			}
			return err
		}, `SELECT place, pin FROM pin_batch_pins WHERE account = ? AND batch_key = ?`, account, key)
	})
	return made, err
}

// rememberBatches writes which places of lists these pins are. It locks the claims until the transaction ends, so that
// nobody takes one over before its pins are committed, and fails when somebody has.
func (s *store) rememberBatches(tx *gorm.DB, batch []*addition) error {
	held := map[*Batch]bool{}
	var rows rowsOf
	for _, a := range batch {
		b := a.batch
		if b == nil || b.claim == "" {
			continue
		}
		rows = append(rows, []any{b.key.account, b.key.key, a.place, a.pin.ID})
		if held[b] {
			continue
		}
		held[b] = true
		hold := tx.Exec(`UPDATE pin_batches SET claim = claim WHERE account = ? AND batch_key = ? AND claim = ?`, b.key.account, b.key.key, b.claim)
		if hold.Error != nil {
			return hold.Error
		}
		if hold.RowsAffected == 0 {
			return ErrOvertaken
		}
	}
	return rows.insert(tx, `INSERT INTO pin_batch_pins (account, batch_key, place, pin) VALUES `, "")
}

// forgetBatches gives keys back that could not be, and removes those that are remembered no longer.
func (s *store) forgetBatches(ctx context.Context, now time.Time) error {
	for owed := s.owedBatches.take(); len(owed) > 0; owed = owed[1:] {
		if err := s.unclaimBatch(ctx, owed[0]); err != nil {
			s.owedBatches.add(owed...)
			return err
		}
	}
	before := now.Add(-uploadsKept).UnixMilli()
	for {
		forgotten, err := s.forgetSomeBatches(ctx, before)
		if err != nil || forgotten < forgetAtOnce {
			return err
		}
	}
}

// forgetAtOnce is how many lists are forgotten in one transaction. Each may have made many pins.
const forgetAtOnce = 16

// unclaimedBatch selects the lists on which nobody works who lives.
const unclaimedBatch = `(claim = '' OR claimed_by NOT IN (SELECT id FROM workers))`

// forgetSomeBatches removes some of the lists that were made until then, except those that are being recorded. A list is
// locked first, looked at again after that, and goes before what it has made: so nobody claims it or adds to it in between.
func (s *store) forgetSomeBatches(ctx context.Context, until int64) (forgotten int, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		forgotten = 0
		old, err := lockOldBatches(tx, until)
		if err != nil {
			return err
		}
		for _, k := range old {
			gone := tx.Exec(`DELETE FROM pin_batches WHERE account = ? AND batch_key = ? AND `+unclaimedBatch, k.account, k.key)
			if gone.Error == nil && gone.RowsAffected > 0 {
				forgotten++
				gone = tx.Exec(`DELETE FROM pin_batch_pins WHERE account = ? AND batch_key = ?`, k.account, k.key)
			}
			if gone.Error != nil {
				return gone.Error
			}
		}
		return nil
	})
	return forgotten, err
}

// lockOldBatches passes over what others have locked, who may be recording it or forgetting it: it waits for nobody.
func lockOldBatches(tx *gorm.DB, until int64) (keys []claimedKey, err error) {
	q := `SELECT account, batch_key FROM pin_batches WHERE made_ms <= ? AND ` + unclaimedBatch + ` ORDER BY made_ms LIMIT ?`
	if tx.Name() == "postgres" {
		q += ` FOR UPDATE SKIP LOCKED`
	}
	err = query(tx, func(r row) error {
		var k claimedKey
		err := r.Scan(&k.account, &k.key)
		keys = append(keys, k)
		return err
	}, q, until, forgetAtOnce)
	return keys, err
}
