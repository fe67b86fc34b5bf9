package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// A DB runs transactions. Write returns nil only after a durable commit; both may run fn more than once. With the
// context of a running transaction they join it.
type DB interface {
	Read(ctx context.Context, fn func(tx *gorm.DB) error) error
	Write(ctx context.Context, fn func(tx *gorm.DB) error) error
}

const (
	batch    = 1000 // rows that one transaction numbers or removes
	scanRows = 500  // rows that are read at once
	scans    = 8    // how often, for one page
)

// Record writes a change, in the transaction of ctx when there is one.
func (s *Service) Record(ctx context.Context, c Change) error {
	data := []byte("{}")
	if len(c.Data) > 0 {
		var err error
		if data, err = json.Marshal(c.Data); err != nil {
			return fmt.Errorf("recording %s: %w", c.Kind, err)
		}
	}
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`INSERT INTO events (at_ms, account, root, part, kind, data) VALUES (?, ?, ?, ?, ?, ?)`,
			s.now().UnixMilli(), c.Account, c.Root, c.Part, c.Kind, string(data)).Error
	})
}

// number gives numbers to the events that have been committed without one, and wakes those who wait for them.
func (s *Service) number(ctx context.Context) error {
	for {
		var waiting bool
		var last int64
		err := s.db.Read(ctx, func(tx *gorm.DB) error {
			return tx.Raw(`SELECT EXISTS (SELECT 1 FROM events WHERE seq IS NULL), (SELECT last FROM event_clock)`).
				Row().Scan(&waiting, &last)
		})
		if err != nil {
			return err
		}
		s.announce(last)
		if !waiting {
			return nil
		}
		if err := s.db.Write(ctx, numberSome); err != nil {
			return err
		}
	}
}

// numberSome is the only place that gives numbers. The lock comes in a statement of its own, so that the next one sees
// what the holder before has committed.
func numberSome(tx *gorm.DB) error {
	if err := tx.Exec(`UPDATE event_clock SET last = last`).Error; err != nil {
		return err
	}
	numbered := tx.Exec(`UPDATE events SET seq = (SELECT last FROM event_clock) + fresh.n
		FROM (SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS n FROM events WHERE seq IS NULL ORDER BY id LIMIT ?) AS fresh
		WHERE events.id = fresh.id`, batch)
	if numbered.Error != nil {
		return numbered.Error
	}
	return tx.Exec(`UPDATE event_clock SET last = last + ?`, numbered.RowsAffected).Error
}

// sweep removes events that are older than they are kept, in small steps.
func (s *Service) sweep(ctx context.Context) error {
	before := s.now().Add(-keep).UnixMilli()
	for {
		var removed int64
		err := s.db.Write(ctx, func(tx *gorm.DB) error {
			done := tx.Exec(`DELETE FROM events WHERE at_ms < ? AND seq IN
				(SELECT seq FROM events WHERE seq IS NOT NULL ORDER BY seq LIMIT ?)`, before, batch)
			removed = done.RowsAffected
			return done.Error
		})
		if err != nil || removed < batch {
			return err
		}
	}
}

// Last returns the position after all events that can be read now.
func (s *Service) Last(ctx context.Context) (p Position, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT last FROM event_clock`).Row().Scan(&p.Seq)
	})
	return p, err
}

// History returns the newest events of a pin of an account, the newest first, at most limit: what has happened to its root
// since the pin was made, as far as it concerns its part and is still kept.
func (s *Service) History(ctx context.Context, account int64, pin Pin, root string, part int64, made time.Time, limit int) (list []Event, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		rows, err := tx.Raw(`SELECT seq, at_ms, account, part, root, kind, data FROM events
			WHERE root = ? AND root <> '' AND seq IS NOT NULL AND account IN (0, ?) AND part IN (0, ?) AND at_ms >= ? ORDER BY seq DESC LIMIT ?`,
			root, account, part, made.Add(-skew).UnixMilli(), limit).Rows()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			var r record
			if err := rows.Scan(&r.seq, &r.atMS, &r.account, &r.part, &r.root, &r.kind, &r.data); err != nil {
				return err
			}
			list = append(list, Event{At: Position{r.seq, pin.ID}, Time: r.at(), Kind: r.kind, Pin: &pin, Data: json.RawMessage(r.data)})
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("reading the history of a pin: %w", err)
	}
	return list, nil
}

// A Page is some of an account's events.
type Page struct {
	Events []Event
	Next   Position // where to go on
	More   bool     // there may be more already
}

// errFull ends the reading of a page.
var errFull = errors.New("the page is full")

// Page returns at most limit events of an account after a position, the oldest first. It may return fewer, even none,
// and say that there is more: most events are somebody else's, and it does not look at all of them at once.
func (s *Service) Page(ctx context.Context, account int64, after Position, limit int) (Page, error) {
	var page Page
	err := s.db.Read(ctx, func(tx *gorm.DB) error {
		page = Page{Next: after}
		for range scans {
			rows, err := rowsAfter(tx, page.Next, account)
			if err == nil {
				err = s.fill(tx.Statement.Context, &page, account, rows, limit)
			}
			if errors.Is(err, errFull) {
				page.More = true
				return nil
			}
			if err != nil || len(rows) < scanRows {
				return err
			}
		}
		page.More = true
		return nil
	})
	return page, err
}

// A record is one row of events.
type record struct {
	seq, atMS, account, part int64
	root, kind, data         string
}

func (r record) at() time.Time { return time.UnixMilli(r.atMS).UTC() }

// rowsAfter reads events of all roots and of one account.
func rowsAfter(tx *gorm.DB, after Position, account int64) (list []record, err error) {
	from := after.Seq + 1
	if after.Pin != "" {
		from = after.Seq // other pins of that event are still to come
	}
	rows, err := tx.Raw(`SELECT seq, at_ms, account, part, root, kind, data FROM events
		WHERE seq >= ? AND account IN (0, ?) ORDER BY seq LIMIT ?`, from, account, scanRows).Rows()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var r record
		if err := rows.Scan(&r.seq, &r.atMS, &r.account, &r.part, &r.root, &r.kind, &r.data); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// fill adds to a page what rows mean to an account. errFull: there may be more of them.
func (s *Service) fill(ctx context.Context, page *Page, account int64, rows []record, limit int) error {
	var roots []string
	seen := map[string]bool{"": true}
	for _, r := range rows {
		if !seen[r.root] {
			seen[r.root] = true
			roots = append(roots, r.root)
		}
	}
	named := map[string]bool{}
	if len(roots) > 0 {
		var err error
		if named, err = s.pins.Named(ctx, account, roots); err != nil {
			return err
		}
	}
	for _, r := range rows {
		if len(page.Events) >= limit {
			return errFull
		}
		var err error
		switch {
		case r.root == "":
			page.add(r, nil)
		case named[r.root]:
			err = s.fan(ctx, page, account, r, limit)
		}
		if err != nil {
			return err
		}
		page.Next = Position{Seq: r.seq}
	}
	return nil
}

// fan adds the event of each pin that a row is about.
func (s *Service) fan(ctx context.Context, page *Page, account int64, r record, limit int) error {
	after := ""
	if page.Next.Seq == r.seq {
		after = page.Next.Pin
	}
	room := limit - len(page.Events)
	of := Naming{Root: r.root, Part: r.part, By: r.at().Add(skew)}
	pins, err := s.pins.Naming(ctx, account, of, after, room+1)
	if err != nil {
		return err
	}
	for i := range pins[:min(room, len(pins))] {
		page.add(r, &pins[i])
	}
	if len(pins) > room {
		return errFull
	}
	return nil
}

func (p *Page) add(r record, pin *Pin) {
	e := Event{At: Position{Seq: r.seq}, Time: r.at(), Kind: r.kind, Pin: pin, Data: json.RawMessage(r.data)}
	if pin != nil {
		e.At.Pin = pin.ID
	}
	p.Events, p.Next = append(p.Events, e), e.At
}
