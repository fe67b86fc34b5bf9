package pins

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/spec"
)

// SetHot puts a root into a state the way every transition does.
func SetHot(ctx context.Context, s *Service, c cid.Cid, hot Hot) error {
	return s.store.db.Write(ctx, func(tx *gorm.DB) error {
		before, holder, err := lockRoot(tx, `r.cid = ?`, c.String())
		if err != nil {
			return err
		}
		after := before
		after.Hot = hot
		return s.store.saveRoot(tx, before, after, holder)
	})
}

// HotOf is the state of a root.
func HotOf(ctx context.Context, s *Service, c cid.Cid) (hot Hot, err error) {
	err = s.store.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT hot FROM roots WHERE cid = ?`, c.String()).Row().Scan(&hot)
	})
	return hot, err
}

// ReasonOf is what a root says, and Refusals how many accounts have a reason of their own, of all roots.
func ReasonOf(ctx context.Context, s *Service, c cid.Cid) (reason string, err error) {
	err = s.store.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT reason FROM roots WHERE cid = ?`, c.String()).Row().Scan(&reason)
	})
	return reason, err
}

func Refusals(ctx context.Context, s *Service) (n int, err error) {
	err = s.store.db.Read(ctx, func(tx *gorm.DB) error { return tx.Raw(`SELECT count(*) FROM refusals`).Row().Scan(&n) })
	return n, err
}

// SetHeld makes a root held, of a size.
func SetHeld(ctx context.Context, s *Service, c cid.Cid, blocks, bytes int64) error {
	return s.store.db.Write(ctx, func(tx *gorm.DB) error {
		before, _, err := lockRoot(tx, `r.cid = ?`, c.String())
		if err != nil {
			return err
		}
		return s.store.saveRoot(tx, before, After(before, nil, blocks, bytes, s.cfg.Policy, s.now()), "")
	})
}

// Expire removes the pins whose time has come, as Run does from time to time.
func Expire(ctx context.Context, s *Service) error { return s.expire(ctx) }

// Begin and CatchUp are what Run does about cold copies first, and from time to time.
func Begin(ctx context.Context, s *Service) error   { return s.store.begin(ctx) }
func CatchUp(ctx context.Context, s *Service) error { return s.catchUp(ctx) }

// Compare, Collect and Sweep are what Run does from time to time.
func Compare(ctx context.Context, s *Service) error {
	_, err := s.sched.compare(ctx)
	return err
}

func VerifyNext(ctx context.Context, s *Service) (worked bool, err error) {
	return s.sched.verifyNext(ctx, unpaced)
}
func Collect(ctx context.Context, s *Service) error { return s.sched.collect(ctx) }

// HastenMending has a collection that is held up wait less for blocks that nobody has.
func HastenMending(s *Service) { s.sched.holdUpTime = 200 * time.Millisecond }

// EndListed is what Run does about one root of an upload that has ended, as it was listed.
func EndListed(ctx context.Context, s *Service, id string, root cid.Cid) error {
	return s.sched.endHold(ctx, uploadHold{id: id, root: root.String()})
}

// Quiet waits for the moment of a collection.
func Quiet(ctx context.Context, s *Service) { s.sched.quiet(ctx) }

// PartialRoots is how a collection finds what is here in part.
const PartialRoots = partialRoots

// ObeyBlocks learns what is blocked and acts on it, as Run does from time to time, in so many rounds. It returns what the
// last one did.
func ObeyBlocks(ctx context.Context, s *Service, rounds int) (done bool, err error) {
	gone := map[int64]bool{}
	for range rounds {
		if err := s.loadBlocks(ctx); err != nil {
			return false, err
		}
		done, err = s.sched.obeyBlocks(ctx, s.blocked.Load(), gone)
	}
	return done, err
}

// Dump returns all roots, for the message of a test that fails.
func Dump(s *Service) string {
	var b strings.Builder
	err := s.store.db.Read(context.Background(), func(tx *gorm.DB) error {
		return query(tx, func(r row) error {
			var holder string
			root, err := scanRoot(r, &holder)
			fmt.Fprintf(&b, "%+v claimed by %q\n", root, holder)
			return err
		}, `SELECT `+rootColumns+`, r.claimed_by FROM roots r`)
	})
	finding, walking := s.sched.jobs.sizes()
	return fmt.Sprintf("%s%d finding, %d walking, me %s, %v", b.String(), finding, walking, s.store.me, err)
}

// FreeStrays does two sweeps for claims on which nothing works.
func FreeStrays(ctx context.Context, s *Service) error {
	strays, err := s.sched.freeStrays(ctx, nil)
	if err == nil {
		_, err = s.sched.freeStrays(ctx, strays)
	}
	return err
}

// Backoff is how long a root waits after its n-th failed slice.
var Backoff = backoff

// Shares divides places among accounts.
type Shares struct{ s *shares }

func NewShares(size int) Shares        { return Shares{newShares(size)} }
func (s Shares) Room(a Account) int    { return s.s.room(a) }
func (s Shares) Take(a Account, n int) { s.s.take(a, n) }
func (s Shares) Give(a Account)        { s.s.give(a) }

// A Statement is one query of a list.
type Statement struct {
	SQL  string
	Args []any
}

// Statements returns the queries that a list runs, found by running it on a recording session.
func Statements(tx *gorm.DB, account Account, q spec.Query) []Statement {
	var out []Statement
	recording := tx.Session(&gorm.Session{NewDB: true})
	record := &recorder{ConnPool: tx.Statement.ConnPool, out: &out}
	recording.Statement.ConnPool = record
	var page Page
	err := (&store{spans: usualSpans}).rows(recording, account, q, &page)
	if err != nil {
		panic(err)
	}
	return out
}

type recorder struct {
	gorm.ConnPool
	out *[]Statement
}

func (r *recorder) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	*r.out = append(*r.out, Statement{query, args})
	return r.ConnPool.QueryContext(ctx, query, args...)
}

func (r *recorder) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	*r.out = append(*r.out, Statement{query, args})
	return r.ConnPool.QueryRowContext(ctx, query, args...)
}

// MaxProofs is how many cold copies one pass reads back.
const MaxProofs = maxProofs

// LetGoPass and RecordTouches are what Run does from time to time about what is hot.
func LetGoPass(ctx context.Context, s *Service) (enough bool, err error) {
	return s.sched.letGoPass(ctx)
}
func RecordTouches(ctx context.Context, s *Service) error { return s.sched.recordTouches(ctx) }

// Enter makes a service that does not run one of the servers of its database.
func Enter(ctx context.Context, s *Service) error { return s.store.enter(ctx, s.cfg.Instance) }

// HeldBytes remembers the sums that ask comes to. change is told of what has come to be less since a time; again wants a sum
// that was begun after one.
func HeldBytes(ask func(context.Context, Account) (int64, error)) (
	of func(context.Context, Account) (int64, error), change func(a Account, since time.Time, less int64),
	again func(ctx context.Context, a Account, since time.Time) error,
) {
	s := newSums(ask)
	return s.of, func(a Account, since time.Time, less int64) {
		s.change(a, since, func(v int64) int64 { return v - less })
	}, s.again
}

// ForgetBatches forgets the keys of lists as of a time, as Run does from time to time.
func ForgetBatches(ctx context.Context, s *Service, now time.Time) error {
	return s.store.forgetBatches(ctx, now)
}

// SetSpans sets the sizes of spans of names, and MakeSpans makes those that an account lacks, as Run does once a search
// has wanted them.
func SetSpans(s *Service, pins, outside int) { s.store.spans = spanSizes{pins, int64(outside)} }

func MakeSpans(ctx context.Context, s *Service, account Account) error {
	return s.sched.makeSpans(ctx, account)
}

// SpansOf is how many spans an account has.
func SpansOf(ctx context.Context, s *Service, account Account) (n int, err error) {
	err = s.store.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT count(*) FROM name_spans WHERE account = ? AND form = 'created'`, account).Row().Scan(&n)
	})
	return n, err
}

// Relieve is what is done about a shortage that is looked at again and again: none, collect, resume or drop.
func Relieve() func(room Room, failed bool, walking int, held, collections int64, now time.Time) string {
	var r relief
	return func(room Room, failed bool, walking int, held, collections int64, now time.Time) string {
		return []string{"none", "collect", "resume", "drop"}[r.next(shortage{room, failed, walking, held, collections}, now)]
	}
}

// CarryTwice asks the sponsor twice about a DAG while it is fetched, and calls between in between.
func CarryTwice(ctx context.Context, s *Service, c cid.Cid, known Extent, between func()) error {
	j := &job{}
	err := s.store.db.Write(ctx, func(tx *gorm.DB) (err error) {
		j.root, _, err = lockRoot(tx, `r.cid = ?`, c.String())
		return err
	})
	if err != nil {
		return err
	}
	if err := s.carry(ctx, j, known); err != nil {
		return err
	}
	between()
	return s.carry(ctx, j, known)
}

// Arrive makes a root held, of a size, as a walk of it does that ends.
func Arrive(ctx context.Context, s *Service, c cid.Cid, bytes int64) error {
	var id int64
	err := s.store.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`UPDATE roots SET claimed_by = ? WHERE cid = ? RETURNING id`, s.store.me, c.String()).Row().Scan(&id)
	})
	if err != nil {
		return err
	}
	_, _, err = s.store.move(ctx, id, false, func(r Root) Root { return After(r, nil, 1, bytes, s.cfg.Policy, s.now()) })
	return err
}

// ExpireRetained lets go what was kept of replaced pins for too long, as Run does from time to time.
func ExpireRetained(ctx context.Context, s *Service) error {
	_, err := s.store.expireRetained(ctx)
	return err
}

// ExpireIfTold is ExpireRetained if Run would do so at once.
func ExpireIfTold(ctx context.Context, s *Service) error {
	select {
	case <-s.store.overdue:
		return ExpireRetained(ctx, s)
	default:
		return errors.New("it would be let go a minute later")
	}
}

// A Kept is what is held for an account: as it counts, as it costs, and as the pins and what is kept of replaced ones say.
type Kept struct{ Counted, Cost, Held, HeldByPin int64 }

// KeptNow reads it all afresh. wrong is how many holdings nobody has and how many DAGs are kept that a pin keeps already.
func KeptNow(ctx context.Context, s *Service, account Account) (k Kept, wrong int64, err error) {
	if k.Counted, err = s.store.heldBytes(ctx, account); err != nil {
		return k, 0, err
	}
	stock, err := s.store.stock(ctx, account)
	if err != nil {
		return k, 0, err
	}
	k.Cost = stock.Hot
	err = s.store.db.Read(ctx, func(tx *gorm.DB) error {
		const keepers = `(SELECT root_id, id FROM pins WHERE account = @a AND lapsed_ms IS NULL
			UNION ALL SELECT root_id, pin FROM retained WHERE account = @a) AS k`
		a := sql.Named("a", account)
		for q, into := range map[string]*int64{
			`SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM roots WHERE hot = 'held' AND id IN (SELECT root_id FROM ` + keepers + `)`: &k.Held,
			`SELECT CAST(coalesce(sum(r.bytes), 0) AS BIGINT) FROM roots r JOIN ` + keepers + ` ON k.root_id = r.id WHERE r.hot = 'held'`:  &k.HeldByPin,
			`SELECT (SELECT count(*) FROM holdings WHERE account = @a AND pin NOT IN (SELECT id FROM pins) AND pin NOT IN (SELECT pin FROM retained)) +
				(SELECT count(*) FROM retained k JOIN pins p ON p.root_id = k.root_id WHERE k.account = @a AND p.account = @a AND p.lapsed_ms IS NULL)`: &wrong,
		} {
			if err := tx.Raw(q, a).Row().Scan(into); err != nil {
				return err
			}
		}
		return nil
	})
	return k, wrong, err
}
