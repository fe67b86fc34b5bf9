package pins

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins/heat"
)

// A Ground is why a DAG stays on the hot tier, in words for the operator.
type Ground string

// Grounds. Several may hold; the first in this order is told. Whether a cold copy can be read back is found out only when a DAG
// is about to go.
const (
	GroundNone     Ground = ""
	GroundKeep     Ground = "a pin asks for it to be kept hot"
	GroundUncopied Ground = "a pin has no cold copies"
	GroundUnproven Ground = "not all of its cold copies are proven"
	GroundNeeded   Ground = "a deal needs its bytes"
	GroundYoung    Ground = "it was read or asked for lately"
)

// Grounds lists them in the order in which they are told.
func Grounds() []Ground {
	return []Ground{GroundNone, GroundKeep, GroundUncopied, GroundUnproven, GroundNeeded, GroundYoung}
}

// A resident is a root that is hot, with what its stay depends on.
type resident struct {
	Root
	heat.Record
	ground    Ground // of those that the database knows
	coldOnly  bool   // all its pins want it cold only
	providers []deals.ProviderID
}

const heatColumns = `h.score, h.read_ms, h.base, h.let_go_ms, h.returns`

// scanResident reads rootColumns and heatColumns, which are NULL for a DAG that was never read.
func scanResident(from row) (r resident, err error) {
	var score, base sql.NullFloat64
	var read, gone, returns sql.NullInt64
	r.Root, err = scanRoot(from, &score, &read, &base, &gone, &returns)
	r.Record = heat.Record{Score: score.Float64, Base: base.Float64, Returns: int(returns.Int64)}
	if read.Int64 > 0 {
		r.Read = fromMS(read.Int64)
	}
	if gone.Int64 > 0 {
		r.LetGo = fromMS(gone.Int64)
	}
	return r, err
}

// residents returns the roots that a condition names, with the grounds on which they stay.
func (s *store) residents(ctx context.Context, where string, args ...any) (list []resident, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		list, err = s.residentsIn(tx, where, args...)
		return err
	})
	return list, err
}

func (s *store) residentsIn(tx *gorm.DB, where string, args ...any) (list []resident, err error) {
	err = query(tx, func(from row) error {
		r, err := scanResident(from)
		list = append(list, r)
		return err
	}, `SELECT `+rootColumns+`, `+heatColumns+` FROM roots r LEFT JOIN root_heat h ON h.root_id = r.id WHERE `+where, args...)
	if err != nil || len(list) == 0 {
		return list, err
	}
	return list, s.addGrounds(tx, list)
}

// addGrounds finds out what keeps roots here: what their pins want, how their cold copies stand, and whether they are kept for
// the successors of pins that were replaced.
func (s *store) addGrounds(tx *gorm.DB, list []resident) error {
	at := make(map[int64]int, len(list))
	ids := make([]int64, len(list))
	for i := range list {
		at[list[i].id], ids[i] = i, list[i].id
		list[i].ground, list[i].coldOnly = GroundUncopied, true // what no pin names has no copies
	}
	type wanted struct {
		root int64
		wish deals.Wish
	}
	var all []wanted
	err := query(tx, func(from row) error {
		var id int64
		var terms sql.NullInt64
		var residence Residence
		if err := from.Scan(&id, &terms, &residence); err != nil {
			return err
		}
		r := &list[at[id]]
		r.coldOnly = r.coldOnly && residence == ResidenceCold
		if residence == ResidenceKeep {
			r.ground = GroundKeep
		}
		all = append(all, wanted{id, deals.Wish{Root: r.CID, Terms: max(termsOf(terms), Uncopied)}})
		return nil
	}, `SELECT DISTINCT p.root_id, p.terms, p.residence FROM pins p WHERE p.root_id IN ? AND p.lapsed_ms IS NULL`, ids)
	if err != nil {
		return err
	}
	var wishes []deals.Wish
	for _, w := range all {
		if w.wish.Terms != Uncopied {
			wishes = append(wishes, w.wish)
		}
	}
	var standings map[deals.Wish]deals.Standing
	if len(wishes) > 0 && s.archive != nil {
		if standings, err = s.standings(tx, wishes); err != nil {
			return err
		}
	}
	judged := map[int64]Ground{}
	// What shares blocks with what is coming in its place must be here until then. Of the pin that was replaced there are no
	// copies any more.
	err = query(tx, func(from row) error {
		var id int64
		if err := from.Scan(&id); err != nil {
			return err
		}
		judged[id], list[at[id]].coldOnly = GroundUncopied, false
		return nil
	}, `SELECT DISTINCT root_id FROM retained WHERE root_id IN ?`, ids)
	if err != nil {
		return err
	}
	for _, w := range all {
		r := &list[at[w.root]]
		ground := GroundUncopied
		if st, ok := standings[w.wish]; ok {
			ground = groundOf(st)
			for _, d := range st.Deals {
				if d.State == deals.Active {
					r.providers = append(r.providers, d.Provider)
				}
			}
		}
		if before, ok := judged[w.root]; !ok || before == GroundNone {
			judged[w.root] = ground
		}
	}
	for id, ground := range judged {
		if r := &list[at[id]]; r.ground != GroundKeep {
			r.ground = ground
		}
	}
	return nil
}

// groundOf is what the standing of one wish has against letting the hot copy go.
func groundOf(st deals.Standing) Ground {
	switch {
	case st.Wanted == 0 || st.Active < st.Wanted:
		return GroundUnproven
	case st.UsesBytes:
		return GroundNeeded
	}
	return GroundNone
}

// offload moves a held root to offloaded and claims it, unless something keeps it: the row first, the blocks after that.
func (s *store) offload(ctx context.Context, id int64, reason string) (r resident, gone bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		gone = false
		before, holder, err := lockRoot(tx, `r.id = ?`, id)
		if errors.Is(err, errStale) || err == nil && (before.Hot != HotHeld || holder != "") {
			return nil
		}
		if err != nil {
			return err
		}
		list, err := s.residentsIn(tx, `r.id = ?`, id)
		if err != nil || len(list) == 0 {
			return err
		}
		if r = list[0]; r.ground != GroundNone {
			return nil
		}
		gone = true
		r.Record = r.WasLetGo(s.now())
		r.Root = LetGo(before, reason, s.now())
		if err := s.saveRoot(tx, before, r.Root, s.me); err != nil {
			return err
		}
		return saveHeat(tx, id, r.Record)
	})
	return r, gone, err
}

// bringBack moves an offloaded root to where it is restored.
func (s *store) bringBack(ctx context.Context, r resident) (back bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		back = false
		before, holder, err := lockRoot(tx, `r.id = ?`, r.id)
		if errors.Is(err, errStale) || err == nil && before.Hot != HotOffloaded {
			return nil
		}
		if err != nil {
			return err
		}
		back = true
		if err := s.saveRoot(tx, before, BroughtBack(before, "it is read often", s.now()), holder); err != nil {
			return err
		}
		return saveHeat(tx, r.id, r.Record)
	})
	return back, err
}

func saveHeat(tx *gorm.DB, id int64, r heat.Record) error {
	return tx.Exec(`INSERT INTO root_heat (root_id, score, read_ms, base, let_go_ms, returns) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (root_id) DO UPDATE SET score = excluded.score, read_ms = excluded.read_ms, base = excluded.base,
		let_go_ms = excluded.let_go_ms, returns = excluded.returns`,
		id, r.Score, max(0, r.Read.UnixMilli()), r.Base, max(0, r.LetGo.UnixMilli()), r.Returns).Error
}

// A touch is a number of reads of a DAG.
type touch struct {
	root  cid.Cid
	reads int
}

// touch records reads, and returns the roots as they were before them that are not here.
func (s *store) touch(ctx context.Context, touches []touch, clock heat.Clock) (away []resident, err error) {
	reads := make(map[string]int, len(touches))
	names := make([]string, len(touches))
	for i, t := range touches {
		names[i] = t.root.String()
		reads[names[i]] = t.reads
	}
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		away = nil
		ids, err := lockTouched(tx, names)
		if err != nil || len(ids) == 0 {
			return err
		}
		list, err := s.residentsIn(tx, `r.id IN ?`, ids)
		if err != nil {
			return err
		}
		for _, r := range list {
			if r.Hot == HotOffloaded {
				away = append(away, r)
			}
			if err := saveHeat(tx, r.id, r.Touched(reads[r.CID.String()], s.now(), clock)); err != nil {
				return err
			}
		}
		return nil
	})
	return away, err
}

// lockTouched keeps those of the roots that exist from changing or going until the transaction ends.
func lockTouched(tx *gorm.DB, cids []string) (ids []int64, err error) {
	q := `SELECT id FROM roots WHERE cid IN ? ORDER BY id`
	if tx.Name() == "postgres" {
		q += ` FOR NO KEY UPDATE`
	}
	err = query(tx, func(r row) error {
		var id int64
		err := r.Scan(&id)
		ids = append(ids, id)
		return err
	}, q, cids)
	return ids, err
}

// A clockRow is how the clock of heat is stored.
type clockRow struct {
	At       float64 `json:"at"`
	Step     float64 `json:"step"`
	PassedMS int64   `json:"passed_ms"`
}

func (s *store) clock(ctx context.Context) (heat.Clock, error) {
	settings, err := s.settings(ctx)
	if err != nil || settings[settingClock] == "" {
		return heat.Clock{}, err
	}
	var c clockRow
	err = json.Unmarshal([]byte(settings[settingClock]), &c)
	return heat.Clock{At: c.At, Step: c.Step, Passed: fromMS(c.PassedMS)}, err
}

func (s *store) setClock(ctx context.Context, c heat.Clock) error {
	text, err := json.Marshal(clockRow{c.At, c.Step, c.Passed.UnixMilli()})
	if err != nil {
		return err
	}
	return s.remember(ctx, settingClock, string(text))
}

// A Sum counts DAGs and their bytes.
type Sum struct{ DAGs, Bytes int64 }

// occupied sums the roots up by state. It reads all of them: about a fifth of a second for a million.
func (s *store) occupied(ctx context.Context) (sums map[Hot]Sum, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		sums = map[Hot]Sum{}
		return query(tx, func(r row) error {
			var hot Hot
			var sum Sum
			err := r.Scan(&hot, &sum.DAGs, &sum.Bytes)
			sums[hot] = sum
			return err
		}, `SELECT hot, count(*), CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM roots GROUP BY hot`)
	})
	return sums, err
}

// coldOnly returns the next roots after one that a pin wants cold only, and that are hot.
func (s *store) coldOnly(ctx context.Context, after int64, n int) (list []resident, last int64, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		var ids []int64
		err := query(tx, func(r row) error {
			var id int64
			err := r.Scan(&id)
			ids = append(ids, id)
			return err
		}, `SELECT DISTINCT p.root_id FROM pins p WHERE p.residence = 'cold-only' AND p.root_id > ? ORDER BY p.root_id LIMIT ?`, after, n)
		if err != nil || len(ids) == 0 {
			list, last = nil, 0
			return err
		}
		if last = ids[len(ids)-1]; len(ids) < n {
			last = 0
		}
		list, err = s.residentsIn(tx, `r.id IN ? AND r.hot = 'held' AND r.claimed_by = ''`, ids)
		return err
	})
	return list, last, err
}

// leads tells whether this process is the one that does what only one server of a database should do. When two believe it
// for a moment, more is let go than had to be, and no harm is done.
func (s *store) leads(ctx context.Context) (yes bool, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT coalesce(min(id), '') = ? FROM workers`, s.me).Row().Scan(&yes)
	})
	return yes, err
}

// came is since when a resident is here, as far as its row tells: when it was asked for last or brought back.
func (r resident) came() time.Time { return r.WantedAt }
