package pins

import (
	"cmp"
	"context"
	"database/sql"
	"slices"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/spec"
)

// listBySpans serves parts of names from the spans of an account that has so many pins that it has them. It reports false
// when they do not help; then nothing is in page.
func (s *store) listBySpans(tx *gorm.DB, account Account, q spec.Query, page *Page) (served bool, err error) {
	if tx.Name() != "sqlite" || len(q.CIDs) > 0 || len(q.Meta) > 0 {
		return false, nil
	}
	before, after := bounds(q)
	var all int64
	if err := countByStatus(tx, account, allStatuses(), before, after, &all); err != nil || all <= s.spans.outside {
		return false, err
	}
	m := &spanMatches{tx: tx, account: account, q: q, form: `folded`, part: fold(*q.Name), most: q.Limit}
	if q.Match == spec.Partial {
		m.form, m.part = `exact`, *q.Name
	}
	if slices.Contains([]byte(m.part), nameEnd) {
		return false, nil
	}
	every := len(q.Statuses) == len(allStatuses())
	if !every {
		m.most = scanMatches
	}
	between, err := m.between(before, after)
	if err != nil {
		return false, err
	}
	outside := all
	for _, sp := range between {
		outside -= int64(sp.n)
	}
	if outside > int64(s.spans.pins) {
		s.wantSpans(account)
	}
	if outside > s.spans.outside {
		return false, nil
	}
	if err := m.inside(between); err != nil {
		return false, err
	}
	if err := m.outside(between, before, after); err != nil {
		return false, err
	}
	if !every {
		if m.count > scanMatches {
			return false, nil
		}
		return true, m.ofStatuses(page)
	}
	page.Count = m.count
	return true, m.newest(page)
}

// spanMatches are the pins of an account whose name has a part in it.
type spanMatches struct {
	tx         *gorm.DB
	account    Account
	q          spec.Query
	form, part string
	most       int     // how many of them are wanted, the newest; those outside of spans besides
	created    []int64 // of these
	count      int64   // of all
}

// between returns the spans that lie between two exclusive bounds, the newest first, without what is in them.
func (m *spanMatches) between(before, after int64) (out []span, err error) {
	err = query(m.tx, func(r row) error {
		var sp span
		err := r.Scan(&sp.firstMS, &sp.lastMS, &sp.n)
		out = append(out, sp)
		return err
	}, `SELECT first_ms, last_ms, n FROM name_spans WHERE account = ? AND form = 'created' AND last_ms < ? AND last_ms > ? AND first_ms > ?
		ORDER BY last_ms DESC`, m.account, before, after, after)
	return out, err
}

// inside looks into spans.
func (m *spanMatches) inside(spans []span) error {
	if len(spans) == 0 {
		return nil
	}
	part, i := []byte(m.part), 0
	type hit struct {
		span   span
		places []int
	}
	var hits []hit
	wanted := m.most
	err := query(m.tx, func(r row) error {
		var content sql.RawBytes
		if err := r.Scan(&content); err != nil {
			return err
		}
		var places []int
		namesWith(content, part, func(place int) {
			m.count++
			if wanted > 0 {
				places = append(places, place)
			}
		})
		places = places[max(0, len(places)-wanted):]
		wanted -= len(places)
		if len(places) > 0 {
			hits = append(hits, hit{spans[i], places})
		}
		i++
		return nil
	}, `SELECT content FROM name_spans WHERE account = ? AND form = ? AND last_ms >= ? AND last_ms <= ? ORDER BY last_ms DESC`,
		m.account, m.form, spans[len(spans)-1].lastMS, spans[0].lastMS)
	if err != nil {
		return err
	}
	for _, h := range hits {
		err := query(m.tx, func(r row) error {
			var content []byte
			if err := r.Scan(&content); err != nil {
				return err
			}
			created, err := createdAt(content, h.places)
			m.created = append(m.created, created...)
			return err
		}, `SELECT content FROM name_spans WHERE account = ? AND form = 'created' AND last_ms = ?`, m.account, h.span.lastMS)
		if err != nil {
			return err
		}
	}
	return nil
}

// outside looks at the pins between the spans, and before and after them.
func (m *spanMatches) outside(spans []span, before, after int64) error {
	condition, arg := contains(m.tx, m.part, narrow)
	if m.form == `folded` {
		condition, arg = containsFolded(m.tx, m.part)
	}
	gap := func(after, before int64) error {
		return query(m.tx, func(r row) error {
			var ms int64
			err := r.Scan(&ms)
			m.created = append(m.created, ms)
			m.count++
			return err
		}, `SELECT p.created_ms FROM pins p WHERE p.account = ? AND p.created_ms > ? AND p.created_ms < ? AND `+condition, m.account, after, before, arg)
	}
	for _, sp := range spans {
		if err := gap(sp.lastMS, before); err != nil {
			return err
		}
		before = sp.firstMS
	}
	return gap(after, before)
}

// newest reads the page.
func (m *spanMatches) newest(page *Page) error {
	slices.SortFunc(m.created, func(a, b int64) int { return cmp.Compare(b, a) })
	m.created = m.created[:min(len(m.created), m.q.Limit)]
	return appendByCreated(m.tx, m.account, page, m.created)
}

// ofStatuses reads the page of those that have one of the statuses asked for.
func (m *spanMatches) ofStatuses(page *Page) error {
	if m.count == 0 {
		return nil
	}
	var created []int64
	err := query(m.tx, func(r row) error {
		var ms int64
		err := r.Scan(&ms)
		created = append(created, ms)
		return err
	}, `SELECT created_ms FROM pins p WHERE p.account = ? AND p.created_ms IN ? AND +p.status IN ?`, m.account, m.created, m.q.Statuses)
	if err != nil {
		return err
	}
	m.created, page.Count = created, int64(len(created))
	return m.newest(page)
}

// wantSpans has spans made for an account, soon.
func (s *store) wantSpans(account Account) {
	select {
	case s.spansWanted <- account:
	default: // it will be asked for again
	}
}

// makeSpan makes the first span that an account lacks of the pins after a created time, and returns where to go on; zero:
// there is none.
func (s *store) makeSpan(ctx context.Context, account Account, after int64) (next int64, err error) {
	var sp span
	err = s.db.Read(ctx, func(tx *gorm.DB) (err error) {
		sp, err = s.nextSpan(tx, account, after)
		return err
	})
	if err != nil || sp.n == 0 {
		return 0, err
	}
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		// Pins may have gone since, but none can have come. Whether another process has made one of them is asked too.
		var n, others int
		if err := tx.Raw(`SELECT (SELECT count(*) FROM pins WHERE account = @account AND created_ms >= @first AND created_ms <= @last),
			(SELECT count(*) FROM name_spans WHERE account = @account AND form = 'created' AND last_ms >= @first AND first_ms <= @last)`,
			map[string]any{"account": account, "first": sp.firstMS, "last": sp.lastMS}).Row().Scan(&n, &others); err != nil || n != sp.n || others > 0 {
			return err
		}
		for form, content := range map[string][]byte{`created`: sp.created, `exact`: sp.exact, `folded`: sp.folded} {
			if content == nil {
				content = []byte{} // no pin has a name
			}
			if err := exec(tx, `INSERT INTO name_spans (account, form, last_ms, first_ms, n, content) VALUES (?, ?, ?, ?, ?, ?)`,
				[]any{account, form, sp.lastMS, sp.firstMS, sp.n, content}); err != nil {
				return err
			}
		}
		return nil
	})
	return sp.lastMS, err
}

// nextSpan returns a span of the first pins after a created time that are in none and are followed by enough others or by a
// span, or an empty one.
func (s *store) nextSpan(tx *gorm.DB, account Account, after int64) (sp span, err error) {
	before, _ := bounds(spec.Query{})
	there, err := (&spanMatches{tx: tx, account: account}).between(before, after)
	if err != nil {
		return sp, err
	}
	slices.Reverse(there)
	fill := func(before int64) error {
		sp = span{}
		return query(tx, func(r row) error {
			var ms int64
			var name, folded *string
			err := r.Scan(&ms, &name, &folded)
			sp.add(ms, name, folded)
			return err
		}, `SELECT created_ms, name, name_folded FROM pins WHERE account = ? AND created_ms > ? AND created_ms < ? ORDER BY created_ms LIMIT ?`,
			account, after, before, s.spans.pins)
	}
	for _, next := range there {
		if err := fill(next.firstMS); err != nil || sp.n > 0 {
			return sp, err
		}
		after = next.lastMS
	}
	if err := fill(before); err != nil || sp.n == s.spans.pins {
		return sp, err
	}
	return span{}, nil
}
