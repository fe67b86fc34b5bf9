package pins

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strings"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/spec"
)

// list answers a query from one snapshot.
func (s *store) list(ctx context.Context, account Account, q spec.Query) (page Page, err error) {
	if len(q.Meta) == 0 && !partial(q) {
		err = s.db.Read(ctx, func(tx *gorm.DB) error { return s.answer(tx, account, q, &page) })
		return page, err
	}
	err = s.searches.do(ctx, account, func() error {
		return s.db.Read(ctx, func(tx *gorm.DB) error {
			// SQLite's statements otherwise go on without their caller; see the package of the database.
			inside, cancel := context.WithTimeout(tx.Statement.Context, searchTimeout)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			err := s.answer(tx.WithContext(inside), account, q, &page) //nolint:contextcheck // that of the transaction, which ends with ctx
			if err != nil && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		})
	})
	return page, err
}

func (s *store) answer(tx *gorm.DB, account Account, q spec.Query, page *Page) error {
	*page = Page{}
	if err := s.rows(tx, account, q, page); err != nil {
		return err
	}
	if err := addRefusals(tx, account, page.Pins); err != nil {
		return err
	}
	return s.addStandings(tx, page.Pins)
}

// rows reads the page of a query.
func (s *store) rows(tx *gorm.DB, account Account, q spec.Query, page *Page) error {
	if q.Name == nil && len(q.CIDs) == 0 {
		if len(q.Meta) > 0 {
			return listByMeta(tx, account, q, page)
		}
		return listByStatus(tx, account, q, page)
	}
	f, possible, err := filterOf(tx, account, q, narrow)
	if err != nil || !possible {
		return err
	}
	if len(q.Meta) > metaProbes {
		return f.compare(tx, q, page)
	}
	if partial(q) {
		if served, err := s.listBySpans(tx, account, q, page); served || err != nil {
			return err
		}
		return listByScan(tx, f, q, page)
	}
	return listByFilter(tx, f, q, page)
}

// partial tells whether every name has to be looked at.
func partial(q spec.Query) bool {
	return q.Name != nil && (q.Match == spec.Partial || q.Match == spec.Ipartial)
}

// listByStatus serves lists without other filters, the ones that clients page through: it takes the rows of each
// status from the index in order and counts from the counters.
func listByStatus(tx *gorm.DB, account Account, q spec.Query, page *Page) error {
	before, after := bounds(q)
	rows := func(index, where string, args ...any) error {
		return appendPage(tx, account, page, `SELECT `+pinColumns+` FROM pins p`+indexedBy(tx, index)+` JOIN roots r ON r.id = p.root_id
			WHERE p.account = ?`+where+` AND p.created_ms < ? AND p.created_ms > ? ORDER BY p.created_ms DESC LIMIT ?`,
			append(append([]any{account}, args...), before, after, q.Limit)...)
	}
	if len(q.Statuses) == len(allStatuses()) {
		if err := rows("", ""); err != nil {
			return err
		}
	} else {
		// Each part that ends early has the text of a whole page, so the page ends before what the part lacks.
		parts := *page
		for _, status := range q.Statuses {
			page.Pins = nil
			if err := rows("pins_status", ` AND p.status = ?`, status); err != nil {
				return err
			}
			parts.Pins = append(parts.Pins, page.Pins...)
		}
		slices.SortFunc(parts.Pins, func(a, b Pin) int { return b.Created.Compare(a.Created) })
		page.Pins = firstPage(parts.Pins[:min(len(parts.Pins), q.Limit)])
	}
	if page.Count = int64(len(page.Pins)); !page.ended(q) {
		return nil // there are no others
	}
	return countByStatus(tx, account, q.Statuses, before, after, &page.Count)
}

// indexedBy names an index to SQLite, which without statistics would read a whole account in the order of the list.
func indexedBy(tx *gorm.DB, index string) string {
	if tx.Name() != "sqlite" || index == "" {
		return ""
	}
	return ` INDEXED BY ` + index
}

// listByFilter serves lists whose filters find few pins through an index of their own.
func listByFilter(tx *gorm.DB, f filter, q spec.Query, page *Page) error {
	if err := f.count(tx, page); err != nil || page.Count == 0 {
		return err
	}
	return f.page(tx, q, page)
}

func (f filter) count(tx *gorm.DB, page *Page) error {
	return tx.Raw(`SELECT count(*)`+f.from+f.where, f.args...).Row().Scan(&page.Count)
}

// page appends the newest pins that pass the filter.
func (f filter) page(tx *gorm.DB, q spec.Query, page *Page) error {
	return appendPage(tx, f.account, page, `SELECT `+pinColumns+` FROM (SELECT `+f.row+`.account, `+f.row+`.created_ms`+f.from+f.where+` ORDER BY `+f.row+`.created_ms DESC LIMIT ?) AS k
		JOIN pins p ON p.account = k.account AND p.created_ms = k.created_ms JOIN roots r ON r.id = p.root_id
		ORDER BY p.created_ms DESC`, append(slices.Clone(f.args), q.Limit)...)
}

// Bounds of a search for a part of a name: how many matches are collected before it is taken to be a wide one, and
// among how many of the newest pins a wide one then looks for its page first.
const (
	scanMatches = 2000
	scanNewest  = 20_000
)

// listByScan serves parts of names, for which every name of the account has to be looked at, once.
// A search that finds much is counted, and its page is most likely among the newest pins.
func listByScan(tx *gorm.DB, f filter, q spec.Query, page *Page) error {
	var created []int64
	err := query(tx, func(r row) error {
		var ms int64
		if err := r.Scan(&ms); err != nil {
			return err
		}
		created = append(created, ms)
		return nil
	}, `SELECT p.created_ms`+f.from+f.where+` LIMIT ?`, append(slices.Clone(f.args), scanMatches)...)
	if err != nil {
		return err
	}
	if len(created) < scanMatches {
		page.Count = int64(len(created))
		slices.SortFunc(created, func(a, b int64) int { return cmp.Compare(b, a) })
		created = created[:min(len(created), q.Limit)]
		return appendByCreated(tx, f.account, page, created)
	}
	f, _, err = filterOf(tx, f.account, q, wide)
	if err != nil {
		return err
	}
	before, after := bounds(q)
	newest := f
	newest.from = ` FROM (SELECT * FROM pins WHERE account = ? AND created_ms < ? AND created_ms > ? ORDER BY created_ms DESC LIMIT ?) AS p`
	newest.args = append([]any{f.account, before, after, scanNewest}, f.args...)
	if err := newest.page(tx, q, page); err != nil {
		return err
	}
	if page.ended(q) {
		return f.count(tx, page)
	}
	page.Pins = nil
	return listByFilter(tx, f, q, page)
}

// appendPage appends pins until they are a page, and reads no further.
func appendPage(tx *gorm.DB, account Account, page *Page, sql string, args ...any) error {
	text := 0
	err := query(tx, func(r row) error {
		p, err := scanPin(r, account)
		if err != nil {
			return err
		}
		page.Pins = append(page.Pins, p)
		if text += textOf(&p); text >= pageText {
			return errPageEnds
		}
		return nil
	}, sql, args...)
	if errors.Is(err, errPageEnds) {
		return nil
	}
	return err
}

func appendPins(tx *gorm.DB, account Account, page *Page, sql string, args ...any) error {
	return query(tx, func(r row) error {
		p, err := scanPin(r, account)
		page.Pins = append(page.Pins, p)
		return err
	}, sql, args...)
}

// appendByCreated appends the pins that were created at these times, the newest first.
func appendByCreated(tx *gorm.DB, account Account, page *Page, created []int64) error {
	if len(created) == 0 {
		return nil
	}
	return appendPage(tx, account, page, `SELECT `+pinColumns+` FROM pins p JOIN roots r ON r.id = p.root_id
		WHERE p.account = ? AND p.created_ms IN ? ORDER BY p.created_ms DESC`, account, created)
}

// A filter is the FROM and WHERE of a query for pins.
type filter struct {
	account     Account
	row         string // what stands for a pin in them
	from, where string
	args        []any
}

// A breadth is what a search for a part of a name is expected to find. The result is the same.
type breadth int

const (
	narrow breadth = iota // few names: most are looked at to their end
	wide                  // many names: most are looked at up to the part
)

// filterOf turns a query with a name or CIDs into SQL, with as many keys of meta as metaProbes; possible is false when it
// can match nothing.
func filterOf(tx *gorm.DB, account Account, q spec.Query, b breadth) (f filter, possible bool, err error) {
	f.account, f.row = account, `p`
	index := ""
	where := []string{`p.account = ?`}
	args := []any{account}
	add := func(condition string, values ...any) {
		where = append(where, condition)
		args = append(args, values...)
	}
	if len(q.CIDs) > 0 {
		roots, err := rootIDs(tx, q)
		if err != nil || len(roots) == 0 {
			return f, false, err
		}
		add(`p.root_id IN ?`, roots)
		index = `pins_root`
	}
	if q.Name != nil {
		folded := fold(*q.Name)
		switch q.Match {
		case spec.Exact:
			index = cmp.Or(index, `pins_name`)
			add(`p.name_folded = ?`, folded)
			add(`p.name = ?`, *q.Name)
		case spec.Iexact:
			index = cmp.Or(index, `pins_name`)
			add(`p.name_folded = ?`, folded)
		case spec.Partial:
			index = cmp.Or(index, `pins_status`)
			add(contains(tx, *q.Name, b))
		case spec.Ipartial:
			index = cmp.Or(index, `pins_status`)
			add(containsFolded(tx, folded))
		}
	}
	from := ` FROM pins p` + indexedBy(tx, index)
	prefix := plus(tx)
	if index == `pins_status` {
		prefix = `` // these conditions are what that index is sorted by
	}
	if len(q.Statuses) < len(allStatuses()) {
		add(prefix+`p.status IN ?`, q.Statuses)
	}
	before, after := bounds(q)
	if q.BeforeMS != nil {
		add(prefix+`p.created_ms < ?`, before)
	}
	if q.AfterMS != nil {
		add(prefix+`p.created_ms > ?`, after)
	}
	keys := metaKeys(q)
	has, values := hasMeta(f.row, keys[:min(len(keys), metaProbes)])
	f.from, f.where, f.args = from, ` WHERE `+strings.Join(where, ` AND `)+has, append(args, values...)
	return f, true, nil
}

// plus is the prefix that takes a condition out of SQLite's choice of an index.
func plus(tx *gorm.DB) string {
	if tx.Name() == "sqlite" {
		return `+`
	}
	return ``
}

// contains tells whether a part stands in a name. It compares literally: LIKE would give % and _ a meaning. SQLite's GLOB
// passes over a name without the part in half the time that instr takes, but is slower where it finds it.
func contains(tx *gorm.DB, part string, b breadth) (condition, arg string) {
	switch {
	case tx.Name() != "sqlite":
		return `strpos(p.name, ?) > 0`, part
	case b == wide || strings.ContainsAny(part, "*?["+readAsOne):
		return `instr(p.name, ?) > 0`, part
	}
	return `p.name GLOB ?`, `*` + part + `*`
}

// containsFolded tells whether a folded part stands in a name without case. SQLite's LIKE compares ASCII letters without
// case by itself, which spares making a text of each name; everything else in a name that is not odd is folded already.
func containsFolded(tx *gorm.DB, folded string) (condition, arg string) {
	switch {
	case tx.Name() != "sqlite":
		return `strpos(coalesce(p.name_odd, lower(p.name)), ?) > 0`, folded
	case strings.ContainsAny(folded, readAsOne):
		return `instr(coalesce(p.name_odd, lower(p.name)), ?) > 0`, folded
	}
	return `coalesce(p.name_odd, p.name) LIKE ? ESCAPE '\'`, `%` + likeLiterally.Replace(folded) + `%`
}

var likeLiterally = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// readAsOne are the characters that SQLite's GLOB and LIKE do not compare as what they are: the end of their strings, and
// three that they take for the same.
const readAsOne = "\x00\uFFFD\uFFFE\uFFFF"

func rootIDs(tx *gorm.DB, q spec.Query) (ids []int64, err error) {
	keys := make([]string, len(q.CIDs))
	for i, c := range q.CIDs {
		keys[i] = c.String()
	}
	err = query(tx, func(r row) error {
		var id int64
		err := r.Scan(&id)
		ids = append(ids, id)
		return err
	}, `SELECT id FROM roots WHERE cid IN ?`, keys)
	return ids, err
}

func allStatuses() []spec.Status {
	return []spec.Status{spec.Queued, spec.Pinning, spec.Pinned, spec.Failed}
}

// bounds returns the exclusive bounds of a query on created, in Unix milliseconds.
func bounds(q spec.Query) (before, after int64) {
	before, after = math.MaxInt64, -1
	if q.BeforeMS != nil {
		before = *q.BeforeMS
	}
	if q.AfterMS != nil {
		after = max(*q.AfterMS, -1)
	}
	return before, after
}

// The spans of pin_counts, in bits of a millisecond: 512 ms, 4.4 minutes, 37 hours. A created time is unique in its
// account, so no span of the first level holds more than 512 pins, and none of the others more than 512 of the level
// below: a count reads at most that many entries of each level, however many pins there are.
const (
	span1 = 9
	span2 = 18
	span3 = 27
)

// countByStatus counts an account's pins between two exclusive bounds.
func countByStatus(tx *gorm.DB, account Account, statuses []spec.Status, before, after int64, n *int64) error {
	if before <= after {
		*n = 0
		return nil
	}
	if err := countBelow(tx, account, statuses, before, n); err != nil || after < 0 {
		return err
	}
	var below int64
	if err := countBelow(tx, account, statuses, after+1, &below); err != nil {
		return err
	}
	*n -= below
	if *n < 0 { // after >= before - 1
		*n = 0
	}
	return nil
}

// countBelow counts an account's pins created before x.
func countBelow(tx *gorm.DB, account Account, statuses []spec.Status, x int64, n *int64) error {
	if x <= 0 {
		*n = 0
		return nil
	}
	const counters = `(SELECT coalesce(sum(n), 0) FROM pin_counts WHERE account = ? AND status IN ? AND level = `
	scan := func(r row) error { return r.Scan(n) }
	if x == math.MaxInt64 && len(statuses) == 1 {
		return query(tx, scan, `SELECT CAST(coalesce(sum(n), 0) AS BIGINT) FROM pin_counts WHERE account = ? AND status = ? AND level = 3`,
			account, statuses[0])
	}
	if x == math.MaxInt64 {
		return query(tx, scan, `SELECT CAST(`+counters+`3) AS BIGINT)`, account, statuses)
	}
	return query(tx, scan, `SELECT CAST(`+
		counters+`3 AND bucket < ?) + `+
		counters+`2 AND bucket >= ? AND bucket < ?) + `+
		counters+`1 AND bucket >= ? AND bucket < ?) +
		(SELECT count(*) FROM pins WHERE account = ? AND status IN ? AND created_ms >= ? AND created_ms < ?) AS BIGINT)`,
		account, statuses, x>>span3,
		account, statuses, x>>span3<<(span3-span2), x>>span2,
		account, statuses, x>>span2<<(span2-span1), x>>span1,
		account, statuses, x>>span1<<span1, x)
}
