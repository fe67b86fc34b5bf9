package hooks

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth/events"
)

// A DB runs transactions. Write returns nil only after a durable commit; both may run fn more than once.
type DB interface {
	Read(ctx context.Context, fn func(tx *gorm.DB) error) error
	Write(ctx context.Context, fn func(tx *gorm.DB) error) error
}

// A row of a result.
type row interface{ Scan(dest ...any) error }

func query(tx *gorm.DB, scan func(row) error, statement string, args ...any) (err error) {
	rows, err := tx.Raw(statement, args...).Rows()
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

const hookColumns = `id, account, url, types, label, created_ms, disabled, at_seq, at_pin, failures`

func scanHook(r row, more ...any) (h Hook, err error) {
	var types string
	var created int64
	err = r.Scan(append([]any{&h.ID, &h.Account, &h.URL, &types, &h.Label, &created, &h.Disabled, &h.At.Seq, &h.At.Pin, &h.Failures}, more...)...)
	h.Types, h.Created = strings.Fields(types), time.UnixMilli(created).UTC()
	return h, err
}

func (s *Service) insert(ctx context.Context, h Hook, secret string) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		// Hooks that are made at the same moment may be one more than there should be; that harms nobody. One that was removed
		// counts until it is empty, or making and removing hooks for which much waits would fill the disk.
		var n int
		err := tx.Raw(`SELECT count(*) FROM webhooks h WHERE account = ?
			AND (disabled <> ? OR EXISTS (SELECT 1 FROM webhook_deliveries WHERE hook = h.id))`, h.Account, removed).Row().Scan(&n)
		if err != nil {
			return err
		}
		if n >= maxHooks {
			return ErrTooMany
		}
		return tx.Exec(`INSERT INTO webhooks (`+hookColumns+`, secret, rest_ms, lease_ms) VALUES (?, ?, ?, ?, ?, ?, '', ?, ?, 0, ?, 0, 0)`,
			h.ID, h.Account, h.URL, strings.Join(h.Types, " "), h.Label, h.Created.UnixMilli(), h.At.Seq, h.At.Pin, secret).Error
	})
}

func (s *Service) selectHooks(ctx context.Context, account int64) (list []Hook, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			h, err := scanHook(r)
			list = append(list, h)
			return err
		}, `SELECT `+hookColumns+` FROM webhooks WHERE account = ? AND disabled <> ? ORDER BY created_ms, id`, account, removed)
	})
	return list, err
}

// removed is why a hook is called no more that its account does not have any more. It is there until it is empty: a hook may
// have more deliveries than one transaction should remove.
const removed = "removed"

// remove takes a hook from its account.
func (s *Service) remove(ctx context.Context, account int64, id string) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return oneRow(tx.Exec(`UPDATE webhooks SET disabled = ?, url = '', label = '', secret = '', lease_ms = 0
			WHERE id = ? AND account = ? AND disabled <> ?`, removed, id, account, removed))
	})
}

// oneRow is ErrNotFound when a statement has changed none.
func oneRow(done *gorm.DB) error {
	if done.Error == nil && done.RowsAffected == 0 {
		return ErrNotFound
	}
	return done.Error
}

const newEnough = time.Hour

// rewind has a hook go on after a position. Deliveries that are over stay until the hook comes to their events, which may be
// gone by then. What waits is tried at once, as if it were new; where it is new, as in replays one after the other, there is
// nothing to write.
func (s *Service) rewind(ctx context.Context, account int64, id string, after events.Position) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		err := oneRow(tx.Exec(`UPDATE webhooks SET at_seq = ?, at_pin = ?, disabled = '', failures = 0, rest_ms = 0, lease_ms = 0
			WHERE id = ? AND account = ? AND disabled <> ?`, after.Seq, after.Pin, id, account, removed))
		if err != nil {
			return err
		}
		now := s.now()
		return tx.Exec(`UPDATE webhook_deliveries SET attempts = 0, next_ms = ?, made_ms = ?
			WHERE hook = ? AND state = 'waiting' AND (attempts > 0 OR made_ms < ?)`,
			now.UnixMilli(), now.UnixMilli(), id, now.Add(-newEnough).UnixMilli()).Error
	})
}

func (s *Service) selectDeliveries(ctx context.Context, account int64, id string, before int64, limit int) (list []Delivery, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		var found int
		err := tx.Raw(`SELECT 1 FROM webhooks WHERE id = ? AND account = ? AND disabled <> ?`, id, account, removed).Row().Scan(&found)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		return query(tx, func(r row) error {
			var d Delivery
			var next, made int64
			err := r.Scan(&d.ID, &d.Event, &d.State, &d.Attempts, &next, &d.Code, &d.Problem, &made)
			if d.Made = time.UnixMilli(made).UTC(); d.State == Waiting {
				d.Next = time.UnixMilli(next).UTC()
			}
			list = append(list, d)
			return err
		}, `SELECT id, event, state, attempts, next_ms, code, problem, made_ms FROM webhook_deliveries
			WHERE hook = ? AND (? = 0 OR id < ?) ORDER BY id DESC LIMIT ?`, id, before, before, limit)
	})
	return list, err
}

// due returns hooks for which there may be something to do and nobody does it.
func (s *Service) due(ctx context.Context, last int64) (list []turn, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		now := s.now().UnixMilli()
		return query(tx, func(r row) (err error) {
			var t turn
			var lease int64
			t.hook, err = scanHook(r, &lease, &t.due)
			t.since = time.UnixMilli(lease)
			list = append(list, t)
			return err
		}, `SELECT * FROM (SELECT `+hookColumns+`, lease_ms, EXISTS
			(SELECT 1 FROM webhook_deliveries d WHERE d.hook = h.id AND d.state = 'waiting' AND d.next_ms <= ?) AS due
			FROM webhooks h WHERE h.disabled = '' AND h.lease_ms < ? AND h.rest_ms <= ?) hooks
			WHERE at_seq < ? OR at_pin <> '' OR due`, now, now, now, last)
	})
	return list, err
}

const movedAtOnce = 500

// move moves hooks to where they were read without anything for them, unless somebody works for them or has moved them.
func (s *Service) move(ctx context.Context, read map[string]reach) error {
	// In one order, so that servers which do the same do not wait for each other in a circle.
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(read)), movedAtOnce) {
		err := s.db.Write(ctx, func(tx *gorm.DB) error {
			now := s.now().UnixMilli()
			for _, id := range ids {
				r := read[id]
				err := tx.Exec(`UPDATE webhooks SET at_seq = ?, at_pin = ? WHERE id = ? AND at_seq = ? AND at_pin = ? AND lease_ms < ?`,
					r.to.Seq, r.to.Pin, id, r.from.Seq, r.from.Pin, now).Error
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// A held hook is one that this process works for, until a time at most.
type held struct {
	Hook
	secret string
	until  time.Time
}

// errLost says that a hook is not held any more: it was removed or told to replay, or another process has it.
var errLost = errors.New("the webhook is not held any more")

// lease takes a hook until a time. It is nil when another process has it, or has found since that it must rest.
func (s *Service) lease(ctx context.Context, id string, until time.Time) (h *held, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		h = nil
		now := s.now().UnixMilli()
		done := tx.Exec(`UPDATE webhooks SET lease_ms = ? WHERE id = ? AND lease_ms < ? AND rest_ms <= ? AND disabled = ''`,
			until.UnixMilli(), id, now, now)
		if done.Error != nil || done.RowsAffected == 0 {
			return done.Error
		}
		taken := &held{until: until}
		taken.Hook, err = scanHook(tx.Raw(`SELECT `+hookColumns+`, secret FROM webhooks WHERE id = ?`, id).Row(), &taken.secret)
		h = taken
		return err
	})
	return h, err
}

// release gives a hook back, which rests until a time, unless it is not held any more. Its lease is over at once, and says
// when it had its turn: those that wait longest are next.
func (s *Service) release(ctx context.Context, h *held, rest time.Time) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`UPDATE webhooks SET lease_ms = ?, failures = ?, rest_ms = ? WHERE id = ? AND lease_ms = ?`,
			s.now().UnixMilli()-1, h.Failures, max(0, rest.UnixMilli()), h.ID, h.until.UnixMilli()).Error
	})
}

// stillHeld is errLost when a statement that changes a hook as long as it is held has changed nothing.
func stillHeld(done *gorm.DB) error {
	if done.Error == nil && done.RowsAffected == 0 {
		return errLost
	}
	return done.Error
}

// holds is errLost when a hook is not held any more.
func (s *Service) holds(ctx context.Context, h *held) error {
	return s.db.Read(ctx, func(tx *gorm.DB) error {
		var still bool
		err := tx.Raw(`SELECT EXISTS (SELECT 1 FROM webhooks WHERE id = ? AND lease_ms = ?)`, h.ID, h.until.UnixMilli()).Row().Scan(&still)
		if err == nil && !still {
			return errLost
		}
		return err
	})
}

// addDeliveries makes deliveries of a page of events and moves the hook behind it. Errors: errLost.
func (s *Service) addDeliveries(ctx context.Context, h *held, page events.Page, bodies map[string][]byte) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		err := stillHeld(tx.Exec(`UPDATE webhooks SET at_seq = ?, at_pin = ? WHERE id = ? AND lease_ms = ? AND at_seq = ? AND at_pin = ?`,
			page.Next.Seq, page.Next.Pin, h.ID, h.until.UnixMilli(), h.At.Seq, h.At.Pin))
		if err != nil {
			return err
		}
		if len(bodies) == 0 {
			return nil
		}
		// After a replay there may be what is over: it is made anew.
		err = tx.Exec(`DELETE FROM webhook_deliveries WHERE hook = ? AND event IN ? AND state <> 'waiting'`,
			h.ID, slices.Collect(maps.Keys(bodies))).Error
		if err != nil {
			return err
		}
		now := s.now().UnixMilli()
		for _, e := range page.Events {
			body, wanted := bodies[e.At.String()]
			if !wanted {
				continue
			}
			err := tx.Exec(`INSERT INTO webhook_deliveries (hook, seq, event, body, state, attempts, next_ms, code, problem, made_ms)
				VALUES (?, ?, ?, ?, 'waiting', 0, ?, 0, '', ?) ON CONFLICT (hook, event) DO NOTHING`,
				h.ID, e.At.Seq, e.At.String(), string(body), now, now).Error
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// countWaiting returns how many deliveries of a hook wait, counting no further than matters.
func (s *Service) countWaiting(ctx context.Context, id string) (n int, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT count(*) FROM (SELECT 1 FROM webhook_deliveries WHERE hook = ? AND state = 'waiting' LIMIT ?) w`,
			id, s.backlog).Row().Scan(&n)
	})
	return n, err
}

// A letter is a delivery to be sent.
type letter struct {
	id, attempts int64
	event, body  string
	made         time.Time
}

// letters returns deliveries of a hook that are due, the longest due first: what was not tried yet comes before what has
// failed meanwhile.
func (s *Service) letters(ctx context.Context, h *held, limit int) (list []letter, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var l letter
			var made int64
			err := r.Scan(&l.id, &l.attempts, &l.event, &l.body, &made)
			l.made = time.UnixMilli(made)
			list = append(list, l)
			return err
		}, `SELECT id, attempts, event, body, made_ms FROM webhook_deliveries WHERE hook = ? AND state = 'waiting' AND next_ms <= ?
			ORDER BY next_ms, id LIMIT ?`, h.ID, s.now().UnixMilli(), limit)
	})
	return list, err
}

// record writes down what has become of a delivery, and why its hook ends if it does. Errors: errLost; the delivery is
// another's by then, or was told to begin anew.
func (s *Service) record(ctx context.Context, h *held, l letter, o outcome) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		err := stillHeld(tx.Exec(`UPDATE webhooks SET disabled = ? WHERE id = ? AND lease_ms = ?`, o.disable, h.ID, h.until.UnixMilli()))
		if err != nil {
			return err
		}
		return tx.Exec(`UPDATE webhook_deliveries SET state = ?, attempts = ?, next_ms = ?, code = ?, problem = ?
			WHERE id = ? AND attempts = ?`,
			o.state, l.attempts+1, o.next.UnixMilli(), o.code, o.problem, l.id, l.attempts).Error
	})
}

const (
	keepDelivered = 7 * 24 * time.Hour
	keepDead      = 30 * 24 * time.Hour
	sweepAtOnce   = 1000
)

// A step is a statement that changes a number of rows at most, which is its last argument.
type step struct {
	statement string
	args      []any
}

// byAge are the steps that find deliveries by their age. Each is of one state, so that it finds them in the index.
func byAge(now time.Time) []step {
	forget := func(state State, kept time.Duration) step {
		return step{
			`DELETE FROM webhook_deliveries WHERE id IN
			(SELECT id FROM webhook_deliveries WHERE state = ? AND made_ms < ? ORDER BY made_ms LIMIT ?)`,
			[]any{state, now.Add(-kept).UnixMilli()},
		}
	}
	before := now.Add(-deadAfter).UnixMilli()
	return []step{
		// What was delivered or told to begin anew since it was found is left alone. Asked for its state with =, SQLite would
		// look through all that wait instead of those that were found.
		{`UPDATE webhook_deliveries SET state = 'dead',
			problem = CASE problem WHEN '' THEN 'its turn never came: those before it failed' ELSE problem END
			WHERE state <> 'delivered' AND made_ms < ? AND id IN
			(SELECT id FROM webhook_deliveries WHERE state = 'waiting' AND made_ms < ? ORDER BY made_ms LIMIT ?)`, []any{before, before}},
		forget(Delivered, keepDelivered),
		forget(Dead, keepDead),
	}
}

// sweep gives up what has waited too long, and forgets deliveries that are over. A hook that fails is only tried now and then,
// so that most of what waits for it never has its turn.
func (s *Service) sweep(ctx context.Context) error { return s.take(ctx, byAge(s.now())) }

// empty forgets hooks that were removed, with what waited for them. It asks for one hook at a time, so that it finds the
// deliveries by it however many there are of others.
func (s *Service) empty(ctx context.Context) error {
	list, err := s.selectRemoved(ctx)
	if err != nil {
		return err
	}
	for _, id := range list {
		err := s.take(ctx, []step{
			{`DELETE FROM webhook_deliveries WHERE id IN (SELECT id FROM webhook_deliveries WHERE hook = ? LIMIT ?)`, []any{id}},
			{`DELETE FROM webhooks WHERE id IN (SELECT id FROM webhooks h WHERE id = ?
				AND NOT EXISTS (SELECT 1 FROM webhook_deliveries WHERE hook = h.id) LIMIT ?)`, []any{id}},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) selectRemoved(ctx context.Context) (list []string, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var id string
			err := r.Scan(&id)
			list = append(list, id)
			return err
		}, `SELECT id FROM webhooks WHERE disabled = 'removed' ORDER BY id`) // said, not given, so that it has the index
	})
	return list, err
}

func (s *Service) take(ctx context.Context, steps []step) error {
	for _, one := range steps {
		if err := s.repeat(ctx, one); err != nil {
			return err
		}
	}
	return nil
}

// repeat takes a step until it finds no more.
func (s *Service) repeat(ctx context.Context, one step) error {
	for {
		var changed int64
		err := s.db.Write(ctx, func(tx *gorm.DB) error {
			done := tx.Exec(one.statement, append(slices.Clone(one.args), sweepAtOnce)...)
			changed = done.RowsAffected
			return done.Error
		})
		if err != nil || changed == 0 {
			return err
		}
	}
}
