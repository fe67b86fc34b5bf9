package hooks_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/auth/hooks"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/retrieval/guard"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const ann, ben = 1, 2

// A feed is what has happened to accounts.
type feed struct {
	mu    sync.Mutex
	list  []happened
	gone  int         // of the list
	hides atomic.Bool // pages end at the account's last event
	pages atomic.Int64
	looks atomic.Int64
	// An event has another pin, which has a page of its own.
	halves atomic.Bool
}

type happened struct {
	account int64
	event   events.Event
}

func (f *feed) happens(account int64, kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := int64(len(f.list) + 1)
	f.list = append(f.list, happened{account, events.Event{
		At: events.Position{Seq: n, Pin: fmt.Sprint("pin", n)}, Time: time.Unix(n, 0).UTC(), Kind: kind,
		Pin: &events.Pin{ID: fmt.Sprint("pin", n), CID: "cid"}, Data: json.RawMessage(`{}`),
	}})
}

// forget has the pins of all that has happened gone.
func (f *feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gone = len(f.list)
}

func (f *feed) Changed() <-chan struct{} { return nil }

func (f *feed) Last(context.Context) (events.Position, error) {
	f.looks.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	return events.Position{Seq: int64(len(f.list))}, nil
}

func (f *feed) Page(_ context.Context, account int64, after events.Position, limit int) (events.Page, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pages.Add(1)
	page := events.Page{Next: after}
	for i, h := range f.list {
		if f.halves.Load() && h.event.At.Seq == after.Seq && after.Pin == h.event.At.Pin {
			second := h.event
			second.At.Pin += "b"
			page.Events, page.Next = append(page.Events, second), events.Position{Seq: h.event.At.Seq}
			continue
		}
		if h.event.At.Seq <= after.Seq || h.account != account && f.hides.Load() || i < f.gone {
			continue
		}
		if len(page.Events) == limit {
			page.More = true
			return page, nil
		}
		if h.account == account {
			page.Events = append(page.Events, h.event)
			if f.halves.Load() {
				page.Next, page.More = h.event.At, true
				return page, nil
			}
		}
		page.Next = events.Position{Seq: h.event.At.Seq}
	}
	return page, nil
}

// A receiver is what a user has at the address.
type receiver struct {
	*httptest.Server
	t *testing.T

	mu        sync.Mutex
	secret    string
	answer    int
	refuses   map[string]int // answers to some types
	meanwhile func()         // is called during the next call
	got       []string       // ids that were answered with 2xx
	refused   int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t, answer: http.StatusNoContent}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.meanwhile != nil {
			r.meanwhile()
			r.meanwhile = nil
		}
		if err == nil {
			err = ledger.VerifySignature(req.Header.Get("Frostpin-Signature"), body, [][]byte{[]byte(r.secret)}, time.Now())
		}
		var told struct{ ID, Type, Requestid, CID string }
		if err == nil {
			err = json.Unmarshal(body, &told)
		}
		if err != nil || told.ID != req.Header.Get("Frostpin-Event-Id") || told.CID != "cid" || told.Requestid == "" {
			t.Errorf("%v: %s %v", err, body, req.Header)
		}
		answer := cmp.Or(r.refuses[told.Type], r.answer)
		if answer/100 == 2 {
			r.got = append(r.got, told.ID+" "+told.Type)
		} else {
			r.refused++
		}
		w.WriteHeader(answer)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) answers(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = code
}

func (r *receiver) during(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.meanwhile = f
}

func (r *receiver) wants(ids ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.got, ids) {
		r.t.Errorf("it was told %q, want %q", r.got, ids)
	}
}

// A world is a service with what it depends on.
type world struct {
	*hooks.Service
	*feed
	t       *testing.T
	db      hooks.DB
	client  *http.Client
	closed  atomic.Int64 // the account that is
	elapsed atomic.Int64 // beside the real time, because signatures are checked against it
}

func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	databasetest.Each(t, hooks.Migrations(), func(t *testing.T, db *database.DB) {
		w := &world{feed: &feed{}, t: t, db: db}
		w.client = guard.NewClient(guard.Config{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Redirects: -1})
		t.Cleanup(w.client.CloseIdleConnections)
		w.Service = w.server()
		fn(t, w)
	})
}

// server is another process on the same database.
func (w *world) server() *hooks.Service {
	return hooks.New(hooks.Config{
		Client: w.client, Plain: true, Agent: "test",
		Sign:   func(key, body []byte, _ time.Time) string { return ledger.Sign(key, body, time.Now()) },
		Closed: func(_ context.Context, account int64) (bool, error) { return account == w.closed.Load(), nil },
	}, w.db, w.feed, slog.New(slog.DiscardHandler), func() time.Time { return time.Now().Add(time.Duration(w.elapsed.Load())) })
}

func (w *world) goOn(d time.Duration) { w.elapsed.Add(int64(d)) }

func (w *world) hook(account int64, r *receiver, types ...string) hooks.Hook {
	w.t.Helper()
	h, secret, err := w.Create(w.t.Context(), account, r.URL+"/in", types, "")
	if err != nil {
		w.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secret = secret
	return h
}

func (w *world) pass() {
	w.t.Helper()
	if err := w.Pass(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) deliveries(h hooks.Hook) []hooks.Delivery {
	w.t.Helper()
	list, err := w.Deliveries(w.t.Context(), h.Account, h.ID, 0, 100)
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

func TestEachEventOfTheAccountIsToldOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		all, some, others := newReceiver(t), newReceiver(t), newReceiver(t)
		w.happens(ann, "pin.queued") // before there was a hook
		w.hook(ann, all)
		w.hook(ann, some, "pin.failed", "deals.")
		w.hook(ben, others)
		for range 2 {
			w.pass()
		}
		w.happens(ann, "pin.pinned")
		w.happens(ben, "pin.failed")
		w.happens(ann, "deals.stored")
		for range 3 {
			w.pass()
		}
		all.wants("2-pin2 pin.pinned", "4-pin4 deals.stored")
		some.wants("4-pin4 deals.stored")
		others.wants("3-pin3 pin.failed")
	})
}

func TestWhatFailsIsTriedAgainUntilItIsDead(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.answers(500)
		h := w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		w.pass()
		d := w.deliveries(h)[0]
		if d.State != hooks.Waiting || d.Attempts != 1 || d.Code != 500 || d.Next.IsZero() {
			t.Errorf("%+v", d)
		}
		w.pass() // not before its time
		if d := w.deliveries(h)[0]; d.Attempts != 1 {
			t.Errorf("%+v", d)
		}
		for range 60 {
			w.goOn(2 * time.Hour)
			w.pass()
		}
		if d := w.deliveries(h)[0]; d.State != hooks.Dead || d.Attempts < 8 || d.Attempts > 40 || !d.Next.IsZero() {
			t.Errorf("%+v", d)
		}
		r.answers(200)
		w.happens(ann, "pin.failed")
		w.goOn(7 * time.Hour) // it rests after so many failures
		w.pass()
		r.wants("2-pin2 pin.failed")
		if err := w.Replay(t.Context(), ann, h.ID, events.Position{}); err != nil {
			t.Fatal(err)
		}
		w.pass()
		r.wants("2-pin2 pin.failed", "1-pin1 pin.pinned", "2-pin2 pin.failed")
		w.goOn(40 * 24 * time.Hour)
		if err := w.Sweep(t.Context()); err != nil || len(w.deliveries(h)) != 0 {
			t.Errorf("%v; %+v is remembered for ever", err, w.deliveries(h))
		}
	})
}

func TestGoneEndsAWebhookUntilItIsReplayed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.answers(410)
		h := w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		w.pass()
		r.answers(200)
		w.happens(ann, "pin.failed")
		w.goOn(time.Hour)
		w.pass()
		r.wants()
		list, err := w.Hooks(t.Context(), ann)
		if err != nil || !strings.Contains(list[0].Disabled, "410") {
			t.Errorf("%+v, %v", list, err)
		}
		if err := w.Replay(t.Context(), ann, h.ID, events.Position{Seq: 1}); err != nil {
			t.Fatal(err)
		}
		w.pass()
		r.wants("2-pin2 pin.failed")
	})
}

// A hook that fails is only tried now and then: what waits behind the first of its events never has its turn.
func TestWhatNeverHadItsTurnIsGivenUpToo(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.answers(500)
		h := w.hook(ann, r)
		for range 10 {
			w.happens(ann, "pin.pinned")
		}
		for range 50 {
			w.pass()
			w.goOn(2 * time.Hour)
		}
		if err := w.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		list := w.deliveries(h)
		for _, d := range list {
			if d.State != hooks.Dead || d.Problem == "" {
				t.Errorf("after four days a delivery is %+v", d)
			}
		}
		if len(list) != 10 {
			t.Errorf("there are %d deliveries", len(list))
		}
		r.answers(200)
		w.goOn(7 * time.Hour) // it rests
		w.pass()
		r.wants() // what is as old as this is of no use
	})
}

func TestWhatIsRefusedDoesNotHoldUpTheRest(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.refuses = map[string]int{"pin.queued": http.StatusUnprocessableEntity}
		h := w.hook(ann, r)
		for range 10 {
			w.happens(ann, "pin.queued")
		}
		w.happens(ann, "pin.pinned")
		w.pass()
		r.wants("11-pin11 pin.pinned")
		w.happens(ann, "pin.failed")
		w.pass()
		r.wants("11-pin11 pin.pinned", "12-pin12 pin.failed")
		list, err := w.Hooks(t.Context(), ann)
		if err != nil || list[0].Failures != 0 {
			t.Errorf("%+v, %v", list, err)
		}
		if d := w.deliveries(h)[11]; d.State != hooks.Waiting || d.Attempts != 1 || d.Code != http.StatusUnprocessableEntity {
			t.Errorf("a refused one is %+v", d)
		}
		for range 60 {
			w.goOn(2 * time.Hour)
			w.pass()
		}
		if d := w.deliveries(h)[11]; d.State != hooks.Dead || d.Attempts > 40 {
			t.Errorf("a refused one is %+v in the end", d)
		}
	})
}

// An address that comes back for a moment has its turn used for what was not tried yet.
func TestWhatWasNotTriedYetComesBeforeWhatHasFailed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.refuses = map[string]int{"pin.queued": http.StatusInternalServerError}
		w.hook(ann, r)
		for range 5 {
			w.happens(ann, "pin.queued")
		}
		w.happens(ann, "pin.pinned")
		for range 4 {
			w.pass()
			w.goOn(time.Minute)
		}
		r.wants("6-pin6 pin.pinned")
	})
}

func TestAnAddressRestsThatGivesNoAnswerOrIsOverloaded(t *testing.T) {
	for _, code := range []int{http.StatusTooManyRequests, http.StatusBadGateway, 0} {
		each(t, func(t *testing.T, w *world) {
			r := newReceiver(t)
			r.answers(code)
			w.hook(ann, r)
			if code == 0 {
				r.Close()
			}
			for range 10 {
				w.happens(ann, "pin.pinned")
			}
			w.pass()
			list, err := w.Hooks(t.Context(), ann)
			if err != nil || list[0].Failures != 3 {
				t.Errorf("answer %d: %+v, %v", code, list, err)
			}
		})
	}
}

func TestReplayLosesNothingThatWaits(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.answers(500)
		h := w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		w.happens(ann, "pin.failed")
		w.pass()   // both have been tried
		w.forget() // and their pins are gone
		r.answers(200)
		if err := w.Replay(t.Context(), ann, h.ID, events.Position{Seq: 1, Pin: "pin1"}); err != nil {
			t.Fatal(err)
		}
		w.pass()
		r.wants("1-pin1 pin.pinned", "2-pin2 pin.failed")
	})
}

// A hook that was put past the newest event would be told of nothing until it is reached.
func TestReplayFromPastTheNewestEventIsRefused(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		h := w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		for _, after := range []events.Position{{Seq: 2}, {Seq: 2, Pin: "pin2"}, {Seq: math.MaxInt64}, {Seq: math.MaxInt64, Pin: "pin1"}} {
			var bad *hooks.InvalidError
			if err := w.Replay(t.Context(), ann, h.ID, after); !errors.As(err, &bad) || bad.Field != "after" {
				t.Errorf("after %s: %v", after, err)
			}
		}
		w.pass()
		r.wants("1-pin1 pin.pinned")
		if err := w.Replay(t.Context(), ann, h.ID, events.Position{Seq: 1}); err != nil {
			t.Error(err)
		}
	})
}

func TestReplayDuringAFailingCallCounts(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.answers(500)
		h := w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		for range 8 {
			w.pass()
			w.goOn(7 * time.Hour)
		}
		r.during(func() { // the user has mended the address and has it called, while it is called still
			if err := w.Replay(t.Context(), ann, h.ID, events.Position{}); err != nil {
				t.Error(err)
			}
		})
		w.pass()
		r.answers(200)
		w.goOn(time.Minute) // not the hours that it would rest
		w.pass()
		r.wants("1-pin1 pin.pinned")
	})
}

func TestWebhooksOfClosedAccountsAreRemoved(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		w.closed.Store(ann)
		w.pass()
		r.wants()
		w.closed.Store(0)
		if list, err := w.Hooks(t.Context(), ann); err != nil || len(list) > 0 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

func TestARemovedWebhookIsCalledNoMore(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		h := w.hook(ann, r)
		for range 5 {
			w.happens(ann, "pin.pinned")
		}
		r.during(func() {
			if err := w.Remove(t.Context(), ann, h.ID); err != nil {
				t.Error(err)
			}
		})
		w.pass()
		r.wants("1-pin1 pin.pinned") // the call that was under way
	})
}

// A removal may be committed together with the record of the call before.
func TestAWebhookRemovedBetweenTwoCallsIsCalledNoMore(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		h := w.hook(ann, r)
		for range 5 {
			w.happens(ann, "pin.pinned")
		}
		writes := 0
		w.db = following{w.db, func() {
			if writes++; writes == 3 { // the lease, the deliveries, the record of the first call
				if err := w.Remove(t.Context(), ann, h.ID); err != nil {
					t.Error(err)
				}
			}
		}}
		if err := w.server().Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wants("1-pin1 pin.pinned")
	})
}

// A following DB does something after each write.
type following struct {
	hooks.DB
	then func()
}

func (f following) Write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	err := f.DB.Write(ctx, fn)
	f.then()
	return err
}

func TestAfterAReplayOneServerGoesOn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var calls atomic.Int64
		var h hooks.Hook
		other := w.server()
		var others sync.WaitGroup
		called, answer := make(chan struct{}), make(chan struct{})
		address := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			switch calls.Add(1) {
			case 1: // while the first one calls, the hook is replayed and another one takes it
				if err := w.Replay(t.Context(), ann, h.ID, events.Position{}); err != nil {
					t.Error(err)
				}
				others.Go(func() {
					if err := other.Pass(t.Context()); err != nil {
						t.Error(err)
					}
				})
				<-called
			case 2:
				close(called)
				<-answer
			}
		}))
		defer address.Close()
		var err error
		if h, _, err = w.Create(t.Context(), ann, address.URL, nil, ""); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			w.happens(ann, "pin.pinned")
		}
		w.pass()
		if n := calls.Load(); n != 2 {
			t.Errorf("the first server has gone on: there were %d calls", n)
		}
		close(answer)
		others.Wait()
		if n := calls.Load(); n != 6 {
			t.Errorf("there were %d calls in all", n)
		}
	})
}

// What happens to others must not keep a server busy for a hook, a commit or two each second.
func TestAHookRestsWhileOnlyOthersAreConcerned(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		w.happens(ben, "pin.pinned")
		w.hides.Store(true) // as the real ones do: a page ends at the account's last event
		w.pass()
		r.wants("1-pin1 pin.pinned")
		var writes atomic.Int64
		w.db = failing{w.db, func() bool { writes.Add(1); return false }}
		if err := w.server().Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := writes.Load(); n > 0 {
			t.Errorf("%d writes though nothing has happened", n)
		}
	})
}

// Thousands of hooks must not make thousands of commits of each event that concerns none of them.
func TestWhatConcernsNoneOfManyWebhooksIsNotWrittenForEach(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		for account := range int64(30) {
			w.hook(100+account, r)
		}
		some := newReceiver(t)
		w.hook(ann, some, "deals.")
		var writes atomic.Int64
		whole := w.db
		w.db = failing{whole, func() bool { writes.Add(1); return false }}
		first := w.server().Worker()
		pass := func(k interface{ Pass(context.Context) error }) {
			t.Helper()
			if err := k.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			w.happens(ben, "pin.pinned")
			w.happens(ann, "pin.pinned") // of no type that its hook wants
			pass(first)
		}
		if n := writes.Load(); n > 0 {
			t.Errorf("%d writes for what concerns nobody", n)
		}
		read := w.pages.Load()
		pass(first)
		if n := w.pages.Load() - read; n > 0 {
			t.Errorf("what was read was read again, %d times", n)
		}
		if err := first.Note(t.Context()); err != nil || writes.Load() != 1 {
			t.Errorf("%d writes to note it, %v", writes.Load(), err)
		}
		pass(w.server().Worker()) // as after a restart
		if n := w.pages.Load() - read; n > 0 {
			t.Errorf("what was noted was read again, %d times", n)
		}
		w.happens(ann, "deals.stored")
		pass(first)
		some.wants("7-pin7 deals.stored")
		r.wants()
	})
}

// A look reads of all hooks: it must be made for many of them, and leave none of them out.
func TestManyWebhooksAreReadForWithFewLooks(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		const many = 400
		for i := range int64(many) {
			w.hook(100+i/10, r)
		}
		k := w.server().Worker()
		for range 3 {
			w.happens(ben, "pin.pinned")
			pages, looks := w.pages.Load(), w.looks.Load()
			if err := k.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := w.pages.Load() - pages; n != many {
				t.Errorf("events were read for %d webhooks", n)
			}
			if n := w.looks.Load() - looks; n > 10 {
				t.Errorf("%d looks", n)
			}
		}
	})
}

// What one server remembers is not true any more once another has moved the hook, or its owner has.
func TestAReplayIsNotUndoneByWhatAServerRemembers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		h := w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		first := w.server().Worker()
		for range 2 {
			if err := first.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.happens(ben, "pin.pinned")
		}
		if err := first.Pass(t.Context()); err != nil { // it remembers to have read both of the other account
			t.Fatal(err)
		}
		if err := w.Replay(t.Context(), ann, h.ID, events.Position{}); err != nil {
			t.Fatal(err)
		}
		if err := first.Note(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := first.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.wants("1-pin1 pin.pinned", "1-pin1 pin.pinned")
	})
}

// A failing DB loses writes that a test names.
type failing struct {
	hooks.DB
	lose func() bool
}

func (f failing) Write(ctx context.Context, fn func(tx *gorm.DB) error) error {
	if f.lose() {
		return errors.New("the process was killed")
	}
	return f.DB.Write(ctx, fn)
}

// TestWhatWasSentAndNotRecordedIsSentAgain loses the write after each number of writes.
func TestWhatWasSentAndNotRecordedIsSentAgain(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		w.happens(ann, "pin.failed")
		whole := w.db
		for after := range 5 {
			writes := 0
			w.db = failing{whole, func() bool { writes++; return writes > after }}
			_ = w.server().Pass(t.Context())
			w.goOn(3 * time.Minute) // the lease of the killed one runs out
		}
		w.db = whole
		for range 2 {
			if err := w.server().Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.goOn(3 * time.Minute)
		}
		told := map[string]bool{}
		for _, id := range r.got {
			told[id] = true
		}
		if len(told) != 2 || len(r.got) > 6 {
			t.Errorf("it was told %q", r.got)
		}
		before := len(r.got)
		if w.pass(); len(r.got) != before {
			t.Errorf("it was told again: %q", r.got)
		}
	})
}

func TestManyServersTellEachEventOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		w.hook(ann, r)
		const n = 50
		for range n {
			w.happens(ann, "pin.pinned")
		}
		var servers sync.WaitGroup
		for range 4 {
			s := w.server()
			servers.Go(func() {
				for range 5 {
					if err := s.Pass(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		servers.Wait()
		if told := slices.Compact(slices.Sorted(slices.Values(r.got))); len(told) != n || len(r.got) != n {
			t.Errorf("%d events, %d of them different, were told of %d", len(r.got), len(told), n)
		}
	})
}

// A slowReceiver answers nothing before it is told to.
type slowReceiver struct {
	*httptest.Server
	called chan struct{} // for each call that has arrived
	answer chan struct{} // closed when it is told to
	ended  atomic.Int64  // calls that are over, answered or not
	now    atomic.Int64
	most   atomic.Int64 // calls at the same time
}

func newSlowReceiver(t *testing.T) *slowReceiver {
	t.Helper()
	r := &slowReceiver{called: make(chan struct{}, 1000), answer: make(chan struct{})}
	r.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		defer r.ended.Add(1)
		defer r.now.Add(-1)
		for n := r.now.Add(1); ; {
			if most := r.most.Load(); n <= most || r.most.CompareAndSwap(most, n) {
				break
			}
		}
		r.called <- struct{}{}
		_, _ = io.Copy(io.Discard, req.Body) // only then does the server see that the caller has gone
		select {
		case <-r.answer:
		case <-req.Context().Done():
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// runs has the service run until the test or stop ends it.
func (w *world) runs() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

func TestSlowWebhooksOfSomeAccountsDelayNoOthers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		slow := newSlowReceiver(t)
		for i := range 70 { // of seven accounts, ten each
			account := int64(100 + i/10)
			if _, _, err := w.Create(t.Context(), account, slow.URL, nil, ""); err != nil {
				t.Fatal(err)
			}
			w.happens(account, "pin.pinned")
		}
		told := make(chan struct{})
		fast := newReceiver(t)
		fast.during(func() { close(told) })
		w.hook(ben, fast)
		stop := w.runs()
		for range 7 {
			<-slow.called
		}
		w.happens(ben, "pin.pinned")
		<-told
		if n := slow.ended.Load(); n > 0 {
			t.Errorf("the webhook was called after %d calls of slow ones had ended", n)
		}
		stop()
	})
}

func TestAnAccountHasSomeOfItsWebhooksCalledAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		slow := newSlowReceiver(t)
		for range 10 {
			if _, _, err := w.Create(t.Context(), ann, slow.URL, nil, ""); err != nil {
				t.Fatal(err)
			}
		}
		w.happens(ann, "pin.pinned")
		stop := w.runs()
		for range hooks.OfOneAtOnce {
			<-slow.called
		}
		close(slow.answer)
		for range 10 - hooks.OfOneAtOnce { // the others have their turn when these are over
			<-slow.called
		}
		if n := slow.most.Load(); n > hooks.OfOneAtOnce {
			t.Errorf("%d webhooks of one account were called at once", n)
		}
		stop()
	})
}

// What cannot be worked for is left alone until the next look: a server must not spend all its time on it.
func TestAWebhookThatCannotBeTakenIsNotTriedWithoutEnd(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.hook(ann, newReceiver(t))
		w.happens(ann, "pin.pinned")
		var writes atomic.Int64
		w.db = failing{w.db, func() bool { writes.Add(1); return true }}
		if err := w.server().Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := writes.Load(); n != 1 {
			t.Errorf("it was tried %d times", n)
		}
	})
}

func (w *world) count(statement string) (n int) {
	w.t.Helper()
	err := w.db.Read(w.t.Context(), func(tx *gorm.DB) error { return tx.Raw(statement).Row().Scan(&n) })
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// Millions of deliveries are kept. A plan that reads more of them than it changes would keep the writer each hour. PostgreSQL
// plans by what tables hold, so that SQLite is asked.
func TestTheSweepReadsNoMoreThanItChanges(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), hooks.Migrations()...); err != nil {
		t.Fatal(err)
	}
	for statement, args := range hooks.SweepStatements(time.Now()) {
		var plan []string
		err := db.Read(t.Context(), func(tx *gorm.DB) error {
			rows, err := tx.Raw(`EXPLAIN QUERY PLAN `+statement, args...).Rows()
			if err != nil {
				return err
			}
			for rows.Next() {
				var id, parent, unused int
				var detail string
				if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
					return errors.Join(err, rows.Close())
				}
				plan = append(plan, detail)
			}
			return errors.Join(rows.Err(), rows.Close())
		})
		whole := strings.Join(plan, "; ")
		if err != nil || !strings.HasPrefix(whole, "SEARCH webhook_deliveries USING INTEGER PRIMARY KEY") ||
			!strings.Contains(whole, "(state=? AND made_ms<?)") || strings.Contains(whole, "SCAN") || strings.Contains(whole, "TEMP") {
			t.Errorf("%v: %s\n%s", err, statement, whole)
		}
	}
}

func TestWhatWaitsForAWebhookIsBoundedAndTheRestComesLater(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.answers(http.StatusUnprocessableEntity)
		w.hook(ann, r)
		w.SetBacklog(10)
		const n = 450
		for range n {
			w.happens(ann, "pin.pinned")
		}
		w.pass()
		if n := w.count(`SELECT count(*) FROM webhook_deliveries`); n != 200 { // a page
			t.Errorf("%d deliveries wait", n)
		}
		var writes atomic.Int64
		whole := w.db
		w.db = failing{whole, func() bool { writes.Add(1); return false }}
		second := w.server()
		second.SetBacklog(10)
		if err := second.Pass(t.Context()); err != nil || writes.Load() > 0 {
			t.Errorf("%d writes for a webhook that can only wait, %v", writes.Load(), err)
		}
		w.db = whole
		r.answers(200)
		for range 5 {
			w.goOn(time.Minute)
			w.pass()
		}
		if told := slices.Compact(slices.Sorted(slices.Values(r.got))); len(told) != n || len(r.got) != n {
			t.Errorf("%d events, %d of them different, were told of %d", len(r.got), len(told), n)
		}
	})
}

func TestEventsThatGoWhileTooMuchWaitsHoldUpNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.answers(500)
		w.hook(ann, r)
		w.SetBacklog(10)
		const n = 250
		for range n {
			w.happens(ann, "pin.pinned")
		}
		w.pass() // makes a page
		w.forget()
		w.happens(ann, "pin.failed")
		r.answers(200)
		w.goOn(time.Minute)
		w.pass()
		if last := r.got[len(r.got)-1]; len(r.got) != 201 || last != "251-pin251 pin.failed" {
			t.Errorf("it was told of %d, the last %s", len(r.got), last)
		}
	})
}

// An event of many pins is more than a page, and the newest of all: nothing comes after it that would have the rest looked for.
func TestTheRestOfTheNewestEventIsNotForgotten(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		w.halves.Store(true)
		w.SetBacklog(1)
		w.pass()
		r.wants("1-pin1 pin.pinned", "1-pin1b pin.pinned")
	})
}

// What is over may not be there to be made anew.
func TestAReplayKeepsWhatHasBecomeOfEventsThatAreGone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		h := w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		w.happens(ann, "pin.failed")
		w.pass()
		w.forget()
		w.happens(ann, "pin.lost")
		if err := w.Replay(t.Context(), ann, h.ID, events.Position{}); err != nil {
			t.Fatal(err)
		}
		w.pass()
		if list := w.deliveries(h); len(list) != 3 || list[0].State != hooks.Delivered || list[2].State != hooks.Delivered {
			t.Errorf("%+v", list)
		}
	})
}

// The only writer of SQLite must not be kept for all the deliveries that a hook has had.
func TestAReplayWritesOnlyTheHookAgainWhenNothingHasFailedSince(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.answers(500)
		h := w.hook(ann, r)
		for range 10 {
			w.happens(ann, "pin.pinned")
		}
		w.pass()
		for i, made := range []int{3, 0, 0} { // three were tried before it rested
			w.goOn(time.Second)
			before := w.count(`SELECT max(made_ms) FROM webhook_deliveries`)
			if err := w.Replay(t.Context(), ann, h.ID, events.Position{}); err != nil {
				t.Fatal(err)
			}
			if n := w.count(fmt.Sprint(`SELECT count(*) FROM webhook_deliveries WHERE made_ms > `, before)); n != made {
				t.Errorf("replay %d has written %d deliveries, want %d", i, n, made)
			}
		}
		r.answers(200)
		w.pass()
		if len(r.got) != 10 {
			t.Errorf("it was told of %d", len(r.got))
		}
	})
}

func TestARemovedWebhookIsGoneAtOnceAndEmptiedLater(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r, second := newReceiver(t), newReceiver(t)
		r.answers(500)
		second.answers(500)
		h, other := w.hook(ann, r), w.hook(ann, second)
		for range 5 {
			w.happens(ann, "pin.pinned")
		}
		w.pass()
		if err := w.Remove(t.Context(), ann, h.ID); err != nil {
			t.Fatal(err)
		}
		if n := w.count(`SELECT count(*) FROM webhook_deliveries`); n != 10 {
			t.Errorf("removing a webhook has taken the time to remove %d deliveries", 10-n)
		}
		_, err := w.Deliveries(t.Context(), ann, h.ID, 0, 10)
		for what, err := range map[string]error{
			"removing": w.Remove(t.Context(), ann, h.ID), "replaying": w.Replay(t.Context(), ann, h.ID, events.Position{}), "listing": err,
		} {
			if !errors.Is(err, hooks.ErrNotFound) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if list, err := w.Hooks(t.Context(), ann); err != nil || len(list) != 1 || list[0].ID != other.ID {
			t.Errorf("%+v, %v", list, err)
		}
		if n := w.count(`SELECT count(*) FROM webhooks WHERE secret <> ''`); n != 1 {
			t.Errorf("there are %d secrets", n)
		}
		if err := w.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if hooks, kept := w.count(`SELECT count(*) FROM webhooks`), w.count(`SELECT count(*) FROM webhook_deliveries`); hooks != 1 || kept != 5 {
			t.Errorf("%d webhooks with %d deliveries are left", hooks, kept)
		}
	})
}

// Whoever makes a webhook, lets very much wait for it and removes it, over and over, fills no disk.
func TestARemovedWebhookCountsUntilItIsEmpty(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for range 10 {
			r := newReceiver(t)
			r.answers(500)
			w.hook(ann, r)
		}
		w.happens(ann, "pin.pinned")
		w.pass()
		list, err := w.Hooks(t.Context(), ann)
		if err != nil || len(list) != 10 {
			t.Fatalf("%d webhooks, %v", len(list), err)
		}
		for _, h := range list {
			if err := w.Remove(t.Context(), ann, h.ID); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := w.Create(t.Context(), ann, "https://example.org", nil, ""); !errors.Is(err, hooks.ErrTooMany) {
			t.Errorf("with ten that are not empty yet: %v", err)
		}
		w.hook(ben, newReceiver(t))
		if err := w.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := newReceiver(t)
		empty := w.hook(ann, r)
		for range 9 {
			w.hook(ann, r)
		}
		if err := w.Remove(t.Context(), ann, empty.ID); err != nil {
			t.Fatal(err)
		}
		w.hook(ann, r) // nothing has waited for the one that was removed
	})
}

func TestRemovedWebhooksAreEmptiedWhenAServerStarts(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := newReceiver(t)
		r.answers(500)
		h := w.hook(ann, r)
		w.happens(ann, "pin.pinned")
		w.pass()
		if err := w.Remove(t.Context(), ann, h.ID); err != nil {
			t.Fatal(err)
		}
		stop := w.runs()
		for deadline := time.Now().Add(time.Minute); w.count(`SELECT count(*) FROM webhooks`) > 0; {
			if time.Now().After(deadline) {
				t.Fatal("the webhook that was removed is still there")
			}
		}
		stop()
	})
}

func TestWebhooksOfOthersDoNotExist(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		h := w.hook(ann, newReceiver(t))
		_, err := w.Deliveries(t.Context(), ben, h.ID, 0, 10)
		for what, err := range map[string]error{
			"removing": w.Remove(t.Context(), ben, h.ID), "replaying": w.Replay(t.Context(), ben, h.ID, events.Position{}), "listing": err,
		} {
			if !errors.Is(err, hooks.ErrNotFound) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if list, err := w.Hooks(t.Context(), ben); err != nil || len(list) > 0 {
			t.Errorf("%+v, %v", list, err)
		}
		for range 9 {
			w.hook(ann, newReceiver(t))
		}
		if _, _, err := w.Create(t.Context(), ann, "https://example.org", nil, ""); !errors.Is(err, hooks.ErrTooMany) {
			t.Errorf("the eleventh: %v", err)
		}
		if err := w.Remove(t.Context(), ann, h.ID); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAddressesAreRefusedThatMakeNoSense(t *testing.T) {
	for _, address := range []string{
		"", "example.org", "ftp://example.org", "http://example.org", "https://", "https:///x", "https://a@example.org", "https://a:b@example.org",
		"https://example.org/#x", "https://example.org/#", "https://exa mple.org", "https://example.org/\n", "mailto:x@example.org", "https:example.org",
		"https://example.org/" + strings.Repeat("x", 2000), "https://münchen.example",
	} {
		var bad *hooks.InvalidError
		if err := hooks.CheckURL(address, false); !errors.As(err, &bad) {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, address := range []string{"https://example.org", "https://example.org:8443/a?b=c", "https://[2001:db8::1]/x"} {
		if err := hooks.CheckURL(address, false); err != nil {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// TestWebhooksCannotReachThisMachine names it in ways that pass as addresses; package guard's own tests have hundreds more.
func TestWebhooksCannotReachThisMachine(t *testing.T) {
	var hits atomic.Int64
	canary, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) })}
	go serving.Serve(canary) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { serving.Close() })
	_, port, err := net.SplitHostPort(canary.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, w *world) {
		w.client = guard.NewClient(guard.Config{Redirects: -1})
		w.Service = w.server()
		for i, host := range []string{
			"127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::]",
		} {
			if _, _, err := w.Create(t.Context(), int64(i+1), "http://"+host+":"+port+"/", nil, ""); err != nil {
				t.Fatal(err)
			}
			w.happens(int64(i+1), "pin.pinned")
		}
		for range 5 {
			w.pass()
			w.goOn(time.Hour)
		}
		list, err := w.Hooks(t.Context(), 1)
		if err != nil || hits.Load() > 0 || list[0].Failures == 0 {
			t.Errorf("%d calls have reached this machine; %+v, %v", hits.Load(), list, err)
		}
		if d := w.deliveries(list[0])[0]; strings.Contains(d.Problem, "127") || d.Problem == "" {
			t.Errorf("the account is told %q", d.Problem)
		}
	})
}

func FuzzAddresses(f *testing.F) {
	for _, s := range []string{"https://example.org", "http://[::1]:80/", "https://a:b@c/#d", "https://%00", "//x", "https://x/%zz"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if hooks.CheckURL(address, false) != nil {
			return
		}
		r, err := http.NewRequest(http.MethodPost, address, nil)
		if err != nil || r.URL.Scheme != "https" || r.URL.Hostname() == "" || r.URL.User != nil || r.URL.Fragment != "" {
			t.Errorf("%q was accepted: %v", address, err)
		}
	})
}
