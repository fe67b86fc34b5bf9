package pins

import (
	"cmp"
	"database/sql"
	"slices"
	"strings"

	"gorm.io/gorm"

	"github.com/frostpin/frostpin/spec"
)

const (
	// metaProbes is how many keys of a filter are looked up in their index for each pin. Where there are more, the meta of
	// the pin itself is compared: that is one row, and each key is somewhere else in the index.
	metaProbes = 8

	metaRare = 100 // more pins than this have to be counted further to tell which key is the rarest

	// metaMerged is how many entries of an index are read in their order in the time of a lookup.
	metaMerged = 10
)

// metaKeys are the keys and values of a filter, as their index has them.
func metaKeys(q spec.Query) []string {
	keys := make([]string, 0, len(q.Meta))
	for k, v := range q.Meta {
		keys = append(keys, metaKey(k, v))
	}
	slices.Sort(keys)
	return keys
}

// hasMeta is the condition that a pin, or what stands for it, has some keys.
func hasMeta(row string, keys []string) (condition string, args []any) {
	for _, k := range keys {
		condition += ` AND EXISTS (SELECT 1 FROM pin_meta m WHERE m.account = ` + row + `.account AND m.kv = ? AND m.created_ms = ` + row + `.created_ms)`
		args = append(args, k)
	}
	return condition, args
}

// A metaList is a list with no other filters than meta, statuses and times.
type metaList struct {
	account       Account
	q             spec.Query
	before, after int64
	keys          []string // the rarest first, at most metaProbes
	rarest        int64    // how many pins have the first; of a single key no more are counted than scanMatches
	wanted        int64    // how many pins have one of the statuses asked for
	others        int64    // and how many another
}

// listByMeta starts from the pins with the rarest key, which their index has in the order of the list.
func listByMeta(tx *gorm.DB, account Account, q spec.Query, page *Page) error {
	m := metaList{account: account, q: q, keys: metaKeys(q)}
	m.before, m.after = bounds(q)
	if err := m.rank(tx); err != nil || m.rarest == 0 {
		return err
	}
	if len(q.Meta) > metaProbes {
		return m.withMeta(tx, q.Statuses).compare(tx, q, page)
	}
	rest := slices.DeleteFunc(allStatuses(), func(s spec.Status) bool { return slices.Contains(q.Statuses, s) })
	if err := countByStatus(tx, account, q.Statuses, m.before, m.after, &m.wanted); err != nil || m.wanted == 0 {
		return err
	}
	if len(rest) > 0 {
		if err := countByStatus(tx, account, rest, m.before, m.after, &m.others); err != nil {
			return err
		}
	}
	if m.others > 0 && m.wanted < min(m.rarest, scanMatches) {
		return listByFilter(tx, m.withStatus(tx, q.Statuses), q, page)
	}
	f := m.withMeta(tx, nil)
	if m.others > 0 {
		f = m.withMeta(tx, q.Statuses)
	}
	if err := f.page(tx, q, page); err != nil {
		return err
	}
	if page.Count = int64(len(page.Pins)); !page.ended(q) {
		return nil // there are no others
	}
	if len(m.keys) == 1 {
		return m.countTagged(tx, f, rest, page)
	}
	return m.countMany(tx, f, page)
}

// countTagged counts the pins of f, which have one key, by what takes the fewest lookups. Those with any status are counted
// by the index alone.
func (m metaList) countTagged(tx *gorm.DB, f filter, rest []spec.Status, page *Page) error {
	if err := m.withMeta(tx, nil).count(tx, page); err != nil || m.others == 0 {
		return err
	}
	m.rarest = page.Count
	switch fewest := min(m.rarest, m.wanted, m.others); {
	case fewest*metaMerged > m.wanted+m.others, fewest == m.rarest:
		return m.countMany(tx, f, page)
	case fewest == m.wanted:
		return m.withStatus(tx, m.q.Statuses).count(tx, page)
	default:
		err := m.withStatus(tx, rest).count(tx, page)
		page.Count = m.rarest - page.Count
		return err
	}
}

// countMany counts the pins of f. Where a good part of the account has even the rarest key, SQLite is told to merge what
// the indexes have, which PostgreSQL knows by itself.
func (m metaList) countMany(tx *gorm.DB, f filter, page *Page) error {
	if tx.Name() != "sqlite" || m.rarest*metaMerged <= m.wanted+m.others || m.others > 0 && len(m.q.Statuses) > 1 {
		return f.count(tx, page)
	}
	var parts []string
	var args []any
	part := func(of string, what any) {
		parts = append(parts, `SELECT created_ms FROM `+of+` = ? AND created_ms < ? AND created_ms > ?`)
		args = append(args, m.account, what, m.before, m.after)
	}
	for _, k := range m.keys {
		part(`pin_meta WHERE account = ? AND kv`, k)
	}
	if m.others > 0 {
		part(`pins INDEXED BY pins_status WHERE account = ? AND status`, m.q.Statuses[0])
	}
	return tx.Raw(`SELECT count(*) FROM (`+strings.Join(parts, ` INTERSECT `)+` ORDER BY created_ms)`, args...).Row().Scan(&page.Count)
}

// rank puts the rarest keys first. Those that are not rare are counted four times as far each time, so that it costs some
// five times as many entries of the index as the rarest has, for each key.
func (m *metaList) rank(tx *gorm.DB) error {
	if len(m.keys) == 1 {
		counted, err := m.counted(tx, scanMatches)
		m.rarest = counted[m.keys[0]]
		return err
	}
	for most := int64(metaRare); ; most *= 4 {
		counted, err := m.counted(tx, most)
		if err != nil {
			return err
		}
		slices.SortFunc(m.keys, func(a, b string) int { return cmp.Compare(counted[a], counted[b]) })
		m.keys = m.keys[:min(len(m.keys), metaProbes)]
		if m.rarest = counted[m.keys[0]]; m.rarest < most {
			return nil
		}
	}
}

// counted tells how many pins have each key, up to most.
func (m *metaList) counted(tx *gorm.DB, most int64) (map[string]int64, error) {
	counted := map[string]int64{}
	var keys rowsOf
	for _, k := range m.keys {
		keys = append(keys, []any{k})
	}
	err := keys.each(func(values string, args []any) error {
		return query(tx, func(r row) error {
			var k string
			var n int64
			err := r.Scan(&k, &n)
			counted[k] = n
			return err
		}, `SELECT k.column1, (SELECT count(*) FROM (SELECT 1 FROM pin_meta m WHERE m.account = ? AND m.kv = k.column1 AND m.created_ms < ? AND m.created_ms > ? LIMIT ?) AS few)
			FROM (VALUES `+values+`) AS k`, append([]any{m.account, m.before, m.after, most}, args...)...)
	})
	return counted, err
}

// withMeta goes through the pins with the rarest key; without statuses it looks at no pin.
func (m *metaList) withMeta(tx *gorm.DB, statuses []spec.Status) filter {
	f := filter{
		account: m.account, row: `d`, from: ` FROM pin_meta d`,
		where: ` WHERE d.account = ? AND d.kv = ? AND d.created_ms < ? AND d.created_ms > ?`,
		args:  []any{m.account, m.keys[0], m.before, m.after},
	}
	if statuses != nil {
		f.from += ` CROSS JOIN pins p`
		f.where += ` AND p.account = d.account AND p.created_ms = d.created_ms AND ` + plus(tx) + `p.status IN ?`
		f.args = append(f.args, statuses)
	}
	condition, args := hasMeta(f.row, m.keys[1:])
	f.where, f.args = f.where+condition, append(f.args, args...)
	return f
}

// withStatus goes through the pins with one of some statuses.
func (m *metaList) withStatus(tx *gorm.DB, statuses []spec.Status) filter {
	condition, args := hasMeta(`p`, m.keys)
	return filter{
		account: m.account, row: `p`, from: ` FROM pins p` + indexedBy(tx, `pins_status`),
		where: ` WHERE p.account = ? AND p.status IN ? AND p.created_ms < ? AND p.created_ms > ?` + condition,
		args:  append([]any{m.account, statuses, m.before, m.after}, args...),
	}
}

// compare serves filters of many keys: it compares the meta of each pin that passes the others.
func (f filter) compare(tx *gorm.DB, q spec.Query, page *Page) error {
	var created []int64
	err := query(tx, func(r row) error {
		var ms int64
		var meta sql.NullString
		var have map[string]string
		if err := r.Scan(&ms, &meta); err != nil {
			return err
		}
		if err := fromJSON(meta, &have); err != nil {
			return err
		}
		for k, v := range q.Meta {
			if value, ok := have[k]; !ok || value != v {
				return nil
			}
		}
		created = append(created, ms)
		return nil
	}, `SELECT p.created_ms, p.meta`+f.from+f.where, f.args...)
	if err != nil {
		return err
	}
	page.Count = int64(len(created))
	slices.SortFunc(created, func(a, b int64) int { return cmp.Compare(b, a) })
	return appendByCreated(tx, f.account, page, created[:min(len(created), q.Limit)])
}
