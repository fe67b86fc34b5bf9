package pins

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/text/cases"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// An addition is a pin to insert, and what came of it.
type addition struct {
	account   Account
	request   spec.Request
	terms     deals.TermsID
	residence Residence
	expiry    Expiry
	upload    Upload
	batch     *Batch // as in Asked
	place     int    // in the list
	claim     bool   // also claim the root for this process if it waits and nobody has it

	pin     Pin
	root    Root
	cold    deals.Standing
	claimed bool // the root waits and is now this process's
	met     bool // the root was there before

	err  error
	done chan struct{} // closed when the above is final

	first  *addition     // the one whose request is looking for the same root among the blocks that are here, or nil
	looked chan struct{} // closed when that look is over
}

func newAddition(account Account, r spec.Request, decided Decision, claim bool) *addition {
	return &addition{account: account, request: r, terms: decided.Terms, residence: decided.Residence, expiry: decided.Expiry, claim: claim, done: make(chan struct{}), looked: make(chan struct{})}
}

// uploaded tells whether all of the DAG came with the request.
func (a *addition) uploaded() bool { return a.upload.Hold != "" }

// A counter is where additions wait. Those that arrive while a transaction runs share the next one and its
// statements: most of the cost of an insert is not the row.
type counter struct {
	mu      sync.Mutex
	waiting []*addition
	serving bool
	looking map[int64]*addition // by root: those that have claimed it and are looking
}

// meet notes who looks for the roots of additions that were just committed.
func (c *counter) meet(batch []*addition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range batch {
		if a.claimed && a.err == nil {
			c.looking[a.root.id] = a
		}
	}
	for _, a := range batch {
		if first := c.looking[a.root.id]; first != a {
			a.first = first
		}
	}
}

// looks tells whether a request is looking for a root.
func (c *counter) looks(id int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.looking[id] != nil
}

// endLook ends what meet has noted.
func (c *counter) endLook(a *addition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.looking[a.root.id] == a {
		delete(c.looking, a.root.id)
	}
	close(a.looked)
}

// maxAdditions is the most pins that one transaction inserts.
const maxAdditions = 256

// add inserts a pin, durably.
func (s *store) add(ctx context.Context, account Account, r spec.Request, decided Decision, claim bool) (*addition, error) {
	a := newAddition(account, r, decided, claim)
	s.enqueue(a) //nolint:contextcheck // who inserts it serves others too
	return a, s.inserted(ctx, a)
}

// enqueue has additions inserted in this order.
func (s *store) enqueue(additions ...*addition) {
	s.counter.mu.Lock()
	defer s.counter.mu.Unlock()
	s.counter.waiting = append(s.counter.waiting, additions...)
	if !s.counter.serving {
		s.counter.serving = true
		go s.serveCounter() // it serves others too, and outlives this caller
	}
}

// inserted waits until an addition is inserted, or withdraws it when ctx ends before its transaction has begun.
func (s *store) inserted(ctx context.Context, a *addition) error {
	select {
	case <-a.done:
	case <-ctx.Done():
		if s.counter.withdraw(a) {
			return context.Cause(ctx)
		}
		<-a.done
	}
	return a.err
}

// withdraw takes an addition back unless its transaction has begun.
func (c *counter) withdraw(a *addition) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.waiting, a)
	if i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	return i >= 0
}

func (c *counter) take() []*addition {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), maxAdditions)
	batch := slices.Clone(c.waiting[:n])
	c.waiting = slices.Delete(c.waiting, 0, n)
	return batch
}

// serveCounter inserts what waits until nothing does.
func (s *store) serveCounter() {
	for {
		var batch []*addition
		err := s.db.Write(context.Background(), func(tx *gorm.DB) error {
			if batch == nil { // not when a transaction is tried again
				batch = s.counter.take()
			}
			return s.insert(tx, batch)
		})
		if batch == nil {
			batch = s.counter.take()
		}
		for _, a := range batch {
			if a.err = err; err != nil && len(batch) > 1 {
				// One that the database refuses must not take the others with it.
				a.err = s.db.Write(context.Background(), func(tx *gorm.DB) error { return s.insert(tx, []*addition{a}) })
			}
		}
		s.counter.meet(batch)
		for _, a := range batch {
			close(a.done)
		}
		s.counter.mu.Lock()
		if len(s.counter.waiting) == 0 {
			s.counter.serving = false
			s.counter.mu.Unlock()
			return
		}
		s.counter.mu.Unlock()
	}
}

// insert writes pins with everything that hangs on them.
func (s *store) insert(tx *gorm.DB, batch []*addition) error {
	now := s.now()
	if err := stampCreated(tx, batch, now); err != nil {
		return err
	}
	if err := s.wantRoots(tx, batch, now); err != nil {
		return err
	}
	if err := s.wantCold(tx, batch); err != nil {
		return err
	}
	var pins, metas, uploads rowsOf
	for _, a := range batch {
		r := a.request
		origins, err := toJSON(r.Origins)
		if err != nil {
			return err
		}
		meta, err := toJSON(r.Meta)
		if err != nil {
			return err
		}
		ms := a.pin.Created.UnixMilli()
		a.pin = Pin{
			ID: newID(ms), Account: a.account, Request: r, Created: a.pin.Created, Expires: a.expiry.of(a.pin.Created), DAG: a.root.DAG,
			Terms: a.terms, Residence: a.residence, Cold: a.cold, Rule: s.rule, Waits: s.room() != RoomPlenty,
		}
		pins = append(pins, []any{
			a.account, ms, a.pin.ID, a.root.id, a.pin.Status(), r.CID, r.Name, foldedName(r.Name), oddName(r.Name), origins, r.Dropped, meta,
			termsColumn(a.terms), a.residence, expiresColumn(a.pin.Expires),
		})
		if a.upload.Key != "" {
			if err := s.holdUpload(tx, claimedKey{a.account, a.upload.Key}); err != nil {
				return err
			}
			uploads = append(uploads, []any{a.account, a.upload.Key, a.pin.ID, a.upload.Of, now.UnixMilli()})
		}
		if a.upload.Hold != "" {
			if err := pinHold(tx, a.upload.Hold, r.Root); err != nil {
				return err
			}
		}
		for k, v := range r.Meta {
			metas = append(metas, []any{a.account, metaKey(k, v), ms})
		}
	}
	err := pins.insert(tx, `INSERT INTO pins (account, created_ms, id, root_id, status, cid, name, name_folded, name_odd, origins, dropped, meta, terms, residence, expires_ms) VALUES `, "")
	if err != nil {
		return err
	}
	if err := metas.insert(tx, `INSERT INTO pin_meta (account, kv, created_ms) VALUES `, ""); err != nil {
		return err
	}
	if err := uploads.insert(tx, `INSERT INTO pin_uploads (account, upload_key, pin, pins, made_ms) VALUES `, ""); err != nil {
		return err
	}
	if err := s.rememberBatches(tx, batch); err != nil {
		return err
	}
	if err := s.beginHoldings(tx, batch, now); err != nil {
		return err
	}
	if err := s.takeOver(tx, batch); err != nil {
		return err
	}
	return countIn(tx, batch)
}

// A counted names one counter.
type counted struct {
	account Account
	status  spec.Status
	level   int
	bucket  int64
}

func (c counted) compare(d counted) int {
	return cmp.Or(cmp.Compare(c.account, d.account), cmp.Compare(c.status, d.status), cmp.Compare(c.level, d.level), cmp.Compare(c.bucket, d.bucket))
}

// countIn adds pins that were inserted to the counters. Triggers count everything that happens to a pin later; pins
// that are inserted together share most of their counters, which a trigger would change for each pin.
func countIn(tx *gorm.DB, batch []*addition) error {
	n := map[counted]int64{}
	for _, a := range batch {
		ms := a.pin.Created.UnixMilli()
		for level, span := range []int{span1, span2, span3} {
			n[counted{a.account, a.pin.Status(), level + 1, ms >> span}]++
		}
	}
	var counts rowsOf
	for _, c := range slices.SortedFunc(maps.Keys(n), counted.compare) { // in one order, because the rows are locked
		counts = append(counts, []any{c.account, c.status, c.level, c.bucket, n[c]})
	}
	return counts.insert(tx, `INSERT INTO pin_counts (account, status, level, bucket, n) VALUES `,
		` ON CONFLICT (account, status, level, bucket) DO UPDATE SET n = pin_counts.n + excluded.n`)
}

// stampCreated gives each addition its created time. The rows of the accounts are locked from then on: created is
// handed out in the order of commits, also when the clock stands still or steps back.
func stampCreated(tx *gorm.DB, batch []*addition, now time.Time) error {
	byAccount := map[Account][]*addition{}
	var accounts []Account
	for _, a := range batch {
		if byAccount[a.account] == nil {
			accounts = append(accounts, a.account)
		}
		byAccount[a.account] = append(byAccount[a.account], a)
	}
	slices.Sort(accounts) // so that two servers lock them in one order
	for _, account := range accounts {
		mine := byAccount[account]
		n := int64(len(mine))
		var last int64
		err := query(tx, func(r row) error { return r.Scan(&last) },
			`INSERT INTO pin_accounts (account, last_ms) VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET last_ms =
			CASE WHEN pin_accounts.last_ms >= ? THEN pin_accounts.last_ms + ? ELSE excluded.last_ms END
			RETURNING last_ms`, account, now.UnixMilli()+n-1, now.UnixMilli(), n)
		if err != nil {
			return err
		}
		for i, a := range mine {
			a.pin.Created = fromMS(last - n + 1 + int64(i))
		}
	}
	return nil
}

// newID returns a UUIDv7 that carries the pin's created time.
func newID(createdMS int64) ID {
	u := uuid.New()
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(createdMS)) //nolint:gosec // a time after 1970
	copy(u[:6], ms[2:])
	u[6] = u[6]&0x0f | 0x70
	return ID(u.String())
}

// fold makes names comparable without case. It maps each character on its own, so a part of a name folds to a part
// of the folded name.
func fold(s string) string { return cases.Fold().String(s) }

func foldedName(name *string) *string {
	if name == nil {
		return nil
	}
	f := fold(*name)
	return &f
}

// oddName is the folded name where the lower function of a database would make another text of it, or nil.
func oddName(name *string) *string {
	folded := foldedName(name)
	if folded == nil || *folded == asciiLower(*name) {
		return nil
	}
	return folded
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// metaKey is what the index holds of one key and value: short whatever their length, and without collisions anybody
// could make.
func metaKey(k, v string) string {
	h := sha256.New()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(k)))
	h.Write(n[:])
	h.Write([]byte(k))
	h.Write([]byte(v))
	return hex.EncodeToString(h.Sum(nil)[:16])
}
