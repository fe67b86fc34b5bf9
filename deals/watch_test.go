package deals_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/deals"
)

// A comparison is a call of Changed: with what, of which deals, and which of them it named.
type comparison struct {
	since, now deals.Snapshot
	of, named  []abi.DealID
}

// A comparer notes the comparisons of a process, and may be a node with which something is wrong.
type comparer struct {
	deals.Chain
	mu     sync.Mutex
	seen   []comparison
	undone abi.DealID // the head shows it as active, and no final tipset ever has it
	blind  bool       // the state cannot be read
}

func (c *comparer) Changed(ctx context.Context, since deals.Snapshot, ids func(yield func(abi.DealID) bool), changed func(abi.DealID) error) (deals.Snapshot, error) {
	c.mu.Lock()
	undone, blind := c.undone, c.blind
	c.mu.Unlock()
	call := comparison{since: since}
	name := func(id abi.DealID) error { call.named = append(call.named, id); return changed(id) }
	if blind {
		since = deals.Snapshot{}
	}
	now, err := c.Chain.Changed(ctx, since, func(yield func(abi.DealID) bool) {
		ids(func(id abi.DealID) bool {
			if call.of = append(call.of, id); id == undone {
				return since.State.Defined() || name(id) == nil // a tree that never had it has not changed
			}
			return yield(id)
		})
	}, name)
	if blind {
		now.State = cid.Undef
	}
	if call.now = now; err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seen = append(c.seen, call)
	}
	return now, err
}

func (c *comparer) Deal(ctx context.Context, id abi.DealID, final bool) (deals.OnChain, bool, error) {
	d, found, err := c.Chain.Deal(ctx, id, final)
	c.mu.Lock()
	defer c.mu.Unlock()
	return d, found && (!final || id != c.undone), err
}

func (c *comparer) become(undone abi.DealID, blind bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.undone, c.blind = undone, blind
}

// with returns the comparisons with a snapshot, or with none, that this process has made so far.
func (c *comparer) with(snapshot bool) (found []comparison) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, call := range c.seen {
		if call.since.State.Defined() == snapshot {
			found = append(found, call)
		}
	}
	return found
}

// watched replaces the service by a new one, as a new process does, whose comparisons are noted.
func (w *world) watched() *comparer {
	w.t.Helper()
	w.stop()
	c := &comparer{Chain: w.net}
	w.chain = c
	w.make()
	w.start()
	return c
}

// dieAt starts a new process, and kills it when it comes to a step.
func (w *world) dieAt(step string) {
	w.t.Helper()
	there, gone := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.cfg.At = func(at string) {
		if at == step {
			once.Do(func() { close(there) })
			<-gone
		}
	}
	w.watched()
	select {
	case <-there:
	case <-time.After(time.Hour):
		w.t.Fatalf("it never came to %s", step)
	}
	go func() { // once stop has ended what would go on
		<-time.After(time.Second)
		close(gone)
	}()
	w.stop()
	w.cfg.At = nil
}

// inSnapshot returns the deals that were active in the stored snapshot, as far as the database knows.
func (w *world) inSnapshot() (ids []abi.DealID) {
	w.t.Helper()
	err := w.db.Read(context.Background(), func(tx *gorm.DB) error {
		return tx.Raw(`SELECT deal_id FROM attempts WHERE state = 'active' AND in_snapshot = 1 ORDER BY deal_id`).Scan(&ids).Error
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return ids
}

func (w *world) untilInSnapshot(n int) {
	w.t.Helper()
	w.until(fmt.Sprintf("%d deals are in the snapshot", n), time.Hour, func() bool { return len(w.inSnapshot()) == n })
}

func TestTheFirstRoundAfterARestartGoesOnFromTheLastOne(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		before := w.watched()
		wish := w.wish("x", 3)
		w.untilActive(wish, 3)
		w.untilInSnapshot(3)
		rounds := before.with(true)
		after := w.watched()
		w.until("there is a round", time.Hour, func() bool { return len(after.with(true)) > 0 })
		if lookedUp := after.with(false); len(lookedUp) > 0 {
			t.Errorf("what the last process has settled is looked up again: %+v", lookedUp)
		}
		first := after.with(true)[0]
		if last := rounds[len(rounds)-1].now; first.since.State != last.State || len(first.of) != 3 || len(first.named) > 0 {
			t.Errorf("the first round is %+v, and the last one ended with %+v", first, last)
		}
		w.mustBeSound()
	})
}

func TestALossWhileNobodyLooksIsSeenByTheFirstRound(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.watched()
		wish := w.wish("x", 2)
		w.untilActive(wish, 2)
		w.untilInSnapshot(2)
		lost := w.attempts(wish)[0]
		w.stop()
		w.net.Slash(lost.Provider)
		pass(10 * time.Minute)
		after := w.watched()
		w.until("there is a round", time.Hour, func() bool { return len(after.with(true)) > 0 })
		if first := after.with(true)[0]; !slices.Equal(first.named, []abi.DealID{lost.DealID}) {
			t.Errorf("the first round names %v, and deal %d is gone", first.named, lost.DealID)
		}
		w.until("the loss is known", time.Hour, func() bool { return w.attempts(wish)[0].State == deals.Terminated })
		w.untilActive(wish, 2)
		w.mustBeSound()
	})
}

// TestALossThatWasSeenIsNotForgottenWhateverStepIsTheLast kills the process that sees it between any two steps of the
// round. The snapshot that the next one goes on from may be one in which the deal is missing already.
func TestALossThatWasSeenIsNotForgottenWhateverStepIsTheLast(t *testing.T) {
	for _, step := range []string{"compared", "doubts-stored", "snapshot-stored", "lost-seen"} {
		t.Run(step, func(t *testing.T) {
			forLong(t, 3, func(t *testing.T, w *world) {
				w.watched()
				wish := w.wish("x", 2)
				w.untilActive(wish, 2)
				w.untilInSnapshot(2)
				lost := w.attempts(wish)[0]
				w.stop()
				w.net.Slash(lost.Provider)
				pass(10 * time.Minute)

				w.dieAt(step)
				w.watched()
				w.until("the loss is known", time.Hour, func() bool { return w.attempts(wish)[0].State == deals.Terminated })
				w.mustBeSound()
			})
		})
	}
}

// TestAnActivationThatIsUndoneIsNotTakenForADeal is about a deal that the head has shown and that was undone: no tree
// ever had it, so none changes.
func TestAnActivationThatIsUndoneIsNotTakenForADeal(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprint("restarts ", restarts), func(t *testing.T) {
			forLong(t, 3, func(t *testing.T, w *world) {
				c := w.watched()
				first := w.wish("first", 2)
				w.untilActive(first, 2)
				w.untilInSnapshot(2) // rounds go on from a snapshot
				next := abi.DealID(len(w.net.Deals()) + 1)
				c.become(next, false)
				second := w.wish("second", 1)
				w.untilActive(second, 1)
				if a := w.attempts(second)[0]; a.DealID != next {
					t.Fatalf("the deal is %d, not %d", a.DealID, next)
				}
				if restarts {
					pass(time.Minute)
					w.watched().become(next, false)
				}
				w.until("it is replaced", time.Hour, func() bool { return w.attempts(second)[0].State == deals.Terminated })
				w.untilActive(second, 1)
				w.untilInSnapshot(3)
				w.mustBeSound()
			})
		})
	}
}

func TestASnapshotOutlivesTheTimeInWhichTheStateCannotBeRead(t *testing.T) {
	forLong(t, 4, func(t *testing.T, w *world) {
		c := w.watched()
		wish := w.wish("x", 3)
		w.untilActive(wish, 3)
		w.untilInSnapshot(3)
		c.become(0, true)
		pass(10 * time.Minute)
		lost := w.attempts(wish)[0]
		w.net.Slash(lost.Provider)
		w.until("the loss is known", time.Hour, func() bool { return w.attempts(wish)[0].State == deals.Terminated })
		if ids := w.inSnapshot(); len(ids) != 2 {
			t.Errorf("in the snapshot are %v, and two of three are left", ids)
		}
		after := w.watched()
		w.until("there is a round", time.Hour, func() bool { return len(after.with(true)) > 0 })
		if first := after.with(true)[0]; len(first.of) != 2 || len(first.named) > 0 {
			t.Errorf("the first round that can read the state is %+v", first)
		}
		w.untilActive(wish, 3)
		w.untilInSnapshot(3)
		w.mustBeSound()
	})
}

func TestTheEventOfADealNamesTheMessageThatPublishedIt(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		mute := honest()
		mute.Silent = true
		w.net.Add(1000, mute)
		w.start()
		wish := w.wish("x", 1)
		w.untilActive(wish, 1)
		a := w.attempts(wish)[0]
		var signed market.ClientDealProposal
		if err := signed.UnmarshalCBOR(bytes.NewReader(a.Signed)); err != nil {
			t.Fatal(err)
		}
		if id, found, err := w.net.Published(t.Context(), a.PublishCID, signed.Proposal); err != nil || !found || id != a.DealID {
			t.Errorf("the message is %s, in which the deal is %d (%v, %v), not %d", a.PublishCID, id, found, err, a.DealID)
		}
	})
}

// TestAMessageThatHasNotPublishedTheDealIsNotKept: it would be in the receipt.
func TestAMessageThatHasNotPublishedTheDealIsNotKept(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		wrong := honest()
		wrong.WrongMessage = true
		w.net.Add(1000, wrong)
		w.start()
		wish := w.wish("x", 2)
		w.untilActive(wish, 2)
		for _, a := range w.attempts(wish) {
			if right := a.Provider != 1000; a.DealID == 0 || a.PublishCID.Defined() != right {
				t.Errorf("the message of deal %d with %s is %s", a.DealID, a.Provider, a.PublishCID)
			}
		}
		w.mustBeSound()
	})
}

// A speechless chain fails to look into messages.
type speechless struct {
	deals.Chain
	speechless atomic.Bool
}

func (s *speechless) Published(ctx context.Context, message cid.Cid, p market.DealProposal) (abi.DealID, bool, error) {
	if s.speechless.Load() {
		return 0, false, deals.ErrChain
	}
	return s.Chain.Published(ctx, message, p)
}

// messageInReceipt is the message in the receipt of the wish's only deal.
func (w *world) messageInReceipt(wish deals.Wish) string {
	w.t.Helper()
	key, err := deals.OpenNotaryKey(filepath.Join(w.t.TempDir(), "key"))
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := w.Receipt(context.Background(), wish, deals.NewNotary("https://pins.example", key, time.Now))
	if err != nil || len(r.Deals) != 1 {
		w.t.Fatalf("the receipt has %d deals: %v", len(r.Deals), err)
	}
	return r.Deals[0].PublishMessage
}

// TestAMessageThatCouldNotBeLookedIntoIsLookedIntoAgain: also where it is named only once the deal is active.
func TestAMessageThatCouldNotBeLookedIntoIsLookedIntoAgain(t *testing.T) {
	for name, curio := range map[string]bool{"published": false, "active": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w *world) {
				p := honest()
				p.Curio = curio
				w.net.Add(1000, p)
				chain := &speechless{Chain: eventless{w.net}}
				chain.speechless.Store(true)
				w.chain = chain
				w.make()
				w.start()
				wish := w.wish("x", 1)
				w.until("its id is known", time.Hour, func() bool {
					all := w.attempts(wish)
					return len(all) == 1 && all[0].DealID != 0
				})
				if got := w.messageInReceipt(wish); got != "" {
					t.Errorf("the receipt has message %s, which nobody has looked into", got)
				}
				chain.speechless.Store(false)
				w.until("the receipt has the message", time.Hour, func() bool { return w.messageInReceipt(wish) != "" })
				w.untilActive(wish, 1)
				if a := w.attempts(wish)[0]; !a.PublishCID.Defined() || a.Claimed {
					t.Errorf("the message is %s, claimed %v", a.PublishCID, a.Claimed)
				}
				w.mustBeSound()
			})
		})
	}
}

// TestDealsOfBeforeThereWereSnapshotsAreComparedAtOnce: each of them would cost a call, otherwise.
func TestDealsOfBeforeThereWereSnapshotsAreComparedAtOnce(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			db := databasetest.Open(t, dialect)
			if err := db.Migrate(t.Context(), deals.Migrations()[:1]...); err != nil {
				t.Fatal(err)
			}
			err := db.Write(t.Context(), func(tx *gorm.DB) error {
				for _, s := range []string{
					`INSERT INTO deal_terms (id, terms) VALUES (1, '{}')`,
					`INSERT INTO pieces (id, cid_v1, cid_v2, size, raw_size, car_size) VALUES (1, '', '', 128, 127, 100)`,
					`INSERT INTO archives (id, root, terms_id, wanted, held, barred, piece_id, reason, cold, standing, tries, next_ms, created_ms)
						VALUES (1, 'r', 1, 1, 1, 0, 1, '', 'pending', '{}', 0, 0, 0)`,
					`INSERT INTO slots (id, archive_id, idx, region, state, reason, exhausted, queued, forgiven_ms, next_ms)
						VALUES (1, 1, 0, '', 'filled', '', 0, 0, 0, 0)`,
				} {
					if err := tx.Exec(s).Error; err != nil {
						return err
					}
				}
				for n, state := range []deals.State{deals.Active, deals.Sealing, deals.Expired} {
					err := tx.Exec(`INSERT INTO attempts (uuid, slot_id, archive_id, root, piece_id, generation, renews, provider, protocol,
						proposal_cid, start_epoch, end_epoch, price, collateral, verified, reserved, day, state, reason, verbatim, retryable,
						publish_cid, deal_id, sector, seen_pending, pending_ms, blind, unknowns, unknown_ms, missing, height, planned_ms, sent_ms,
						accepted_ms, pulled_ms, published_ms, active_ms, ended_ms, changed_ms, next_ms)
						VALUES (?, 1, 1, 'r', 1, ?, ?, 1000, '', '', 0, 0, '0', '0', 0, '0', '', ?, '', '', 0, '', ?, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
						0, 0, 0, 0, 0, 0, 0)`, fmt.Sprint(n), n, n, state, n+7).Error
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Migrate(t.Context(), deals.Migrations()...); err != nil {
				t.Fatal(err)
			}
			var in []abi.DealID
			err = db.Read(t.Context(), func(tx *gorm.DB) error {
				return tx.Raw(`SELECT deal_id FROM attempts WHERE in_snapshot = 1`).Scan(&in).Error
			})
			if err != nil || !slices.Equal(in, []abi.DealID{7}) {
				t.Errorf("in the snapshot, which there is not, are %v, want the active deal; %v", in, err)
			}
		})
	}
}

// An anonymous chain tells no deal's id, and shows none under any.
type anonymous struct{ deals.Chain }

func (anonymous) Published(context.Context, cid.Cid, market.DealProposal) (abi.DealID, bool, error) {
	return 0, false, nil
}

func (anonymous) Deal(context.Context, abi.DealID, bool) (deals.OnChain, bool, error) {
	return deals.OnChain{}, false, nil
}

func (a anonymous) Events(ctx context.Context, _ deals.Epoch) ([]deals.Publication, deals.Epoch, error) {
	return eventless(a).Events(ctx, 0)
}

func TestADealThatEndedBeforeItsIDWasLearnedIsReplaced(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		w.net.Add(1000, honest())
		restart := func(chain deals.Chain) {
			w.stop()
			w.chain = chain
			w.make()
			w.start()
		}
		w.start()
		restart(anonymous{w.net})
		wish := w.wish("x", 1)
		w.until("the proposal is published", 24*time.Hour, func() bool {
			all := w.attempts(wish)
			return len(all) == 1 && all[0].SeenPending
		})
		w.until("the deal is active, and dropped", 24*time.Hour, func() bool { return w.net.Slash(1000) })
		restart(w.net)
		first := w.attempts(wish)[0]
		if first.DealID != 0 || first.State != deals.Published {
			t.Fatalf("it is %s, as deal %d", first.State, first.DealID)
		}
		w.until("the attempt is over soon after its start", 5*24*time.Hour, func() bool { return w.attempts(wish)[0].State == deals.Missed })
		w.untilActive(wish, 1)
		w.mustBeSound()
	})
}

// An asked chain takes a while to tell whether a proposal is published, and notes how it is asked that.
type asked struct {
	deals.Chain
	mu                              sync.Mutex
	running, most, inPass, mostOnce int
	all                             map[abi.ChainEpoch]bool // the ends of the proposals
	last                            time.Time
}

func (a *asked) Pending(ctx context.Context, p market.DealProposal) (bool, error) {
	a.mu.Lock()
	if time.Since(a.last) > time.Second {
		a.inPass = 0
	}
	a.running, a.inPass, a.last = a.running+1, a.inPass+1, time.Now()
	a.most, a.mostOnce = max(a.most, a.inPass), max(a.mostOnce, a.running)
	a.all[p.EndEpoch] = true
	a.mu.Unlock()
	<-time.After(time.Millisecond)
	a.mu.Lock()
	a.running--
	a.mu.Unlock()
	return a.Chain.Pending(ctx, p)
}

func TestAPassAsksForNoMoreGivenUpDealsThanItMay(t *testing.T) {
	forLong(t, 1, func(t *testing.T, w *world) {
		bad := honest()
		bad.GiveUp = true
		w.net.Add(1000, bad)
		w.start()
		wish := w.wish("x", 1)
		late := w.untilGivenUp(wish, 1000)
		w.stop()
		const n = 1200
		w.copyAttempt(late, n)
		chain := &asked{Chain: w.net, all: map[abi.ChainEpoch]bool{}}
		w.chain = chain
		w.make()
		w.start()
		w.until("all are asked for", time.Hour, func() bool {
			chain.mu.Lock()
			defer chain.mu.Unlock()
			return len(chain.all) > n
		})
		chain.mu.Lock()
		defer chain.mu.Unlock()
		if chain.most > 512 || chain.mostOnce < 2 || chain.mostOnce > 16 {
			t.Errorf("%d are asked for in a pass, and %d at the same time", chain.most, chain.mostOnce)
		}
	})
}

// copyAttempt stores an attempt n times more, each as another proposal, on SQLite.
func (w *world) copyAttempt(a deals.Attempt, n int) {
	w.t.Helper()
	err := w.db.Write(context.Background(), func(tx *gorm.DB) error {
		var raw []byte
		if err := tx.Raw(`SELECT signed FROM attempts WHERE id = ?`, int64(a.ID)).Row().Scan(&raw); err != nil {
			return err
		}
		var signed market.ClientDealProposal
		if err := signed.UnmarshalCBOR(bytes.NewReader(raw)); err != nil {
			return err
		}
		if err := tx.Exec(`CREATE TEMP TABLE copied AS SELECT * FROM attempts WHERE id = ?`, int64(a.ID)).Error; err != nil {
			return err
		}
		for range n {
			signed.Proposal.EndEpoch++
			var raw bytes.Buffer
			if err := signed.MarshalCBOR(&raw); err != nil {
				return err
			}
			err := tx.Exec(`UPDATE copied SET id = id + 1000, generation = generation + 1000, uuid = ?, signed = ?`,
				uuid.NewString(), raw.Bytes()).Error
			if err != nil {
				return err
			}
			if err := tx.Exec(`INSERT INTO attempts SELECT * FROM copied`).Error; err != nil {
				return err
			}
		}
		return tx.Exec(`DROP TABLE copied`).Error
	})
	if err != nil {
		w.t.Fatal(err)
	}
}
