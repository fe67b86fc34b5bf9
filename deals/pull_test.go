package deals_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/dealstest"
)

// TestAProviderGetsItsPieceWithItsTokenUntilTheDealIsOver goes through the life of a token.
func TestAProviderGetsItsPieceWithItsTokenUntilTheDealIsOver(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		slow := honest()
		slow.Curio, slow.NeverPublish = true, true
		w.net.Add(1000, slow)
		w.net.Add(1001, slow)
		w.start()
		wish := w.wish("x", 2)
		w.until("both are accepted", time.Minute, func() bool { return w.standing(wish).Accepted == 2 })
		a := w.attempts(wish)[0]
		from := w.net.TransferOf(a.UUID)
		if want := w.cfg.PublicURL + "/" + a.Piece.CIDv1.String(); from.URL != want || from.Size != uint64(a.Piece.RawSize) {
			t.Fatalf("the provider was sent to %s for %d bytes", from.URL, from.Size)
		}
		open := func(c cid.Cid, bearer string) ([]byte, error) {
			f, err := w.OpenPiece(t.Context(), c, bearer)
			if err != nil {
				return nil, err
			}
			defer func() {
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}()
			if f.Size() != a.Piece.RawSize || strings.Trim(f.ETag(), `"`) != f.ETag() || f.ETag() == "" || f.Provider() != a.Provider.String() {
				t.Errorf("got %d bytes with %s", f.Size(), f.ETag())
			}
			if _, err := f.Seek(10, io.SeekStart); err != nil {
				return nil, err
			}
			tail, err := io.ReadAll(f)
			if err != nil {
				return nil, err
			}
			if w.attempts(wish)[0].State != deals.Transferring {
				t.Error("whoever reads is not seen to")
			}
			if !w.attempts(wish)[0].PulledAt.IsZero() {
				t.Error("ten bytes are missing")
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return nil, err
			}
			head := make([]byte, 10)
			_, err = io.ReadFull(f, head)
			return append(head, tail...), err
		}
		for name, c := range map[string]cid.Cid{"v1": a.Piece.CIDv1, "v2": a.Piece.CIDv2} {
			got, err := open(c, from.Bearer)
			if err != nil || !bytes.Contains(got, []byte("the content of x")) {
				t.Fatalf("%s: got %q, %v", name, got, err)
			}
			if w.attempts(wish)[0].PulledAt.IsZero() {
				t.Error("all bytes were fetched, and nobody has noticed")
			}
			break // the second look would find it fetched already
		}
		other := w.net.TransferOf(w.attempts(wish)[1].UUID)
		if other.Bearer == from.Bearer {
			t.Error("two attempts share a token")
		}
		for name, try := range map[string]struct {
			c      cid.Cid
			bearer string
		}{
			"no token":         {a.Piece.CIDv1, ""},
			"nonsense":         {a.Piece.CIDv1, "nonsense"},
			"a changed token":  {a.Piece.CIDv1, flip(from.Bearer)},
			"another's id":     {a.Piece.CIDv1, other.Bearer[:20] + from.Bearer[20:]},
			"another piece":    {testPiece().CIDv1, from.Bearer},
			"the root":         {wish.Root, from.Bearer},
			"an undefined CID": {cid.Undef, from.Bearer},
		} {
			if _, err := w.OpenPiece(t.Context(), try.c, try.bearer); !errors.Is(err, deals.ErrUnauthorized) {
				t.Errorf("%s: %v", name, err)
			}
		}
		w.until("the start has passed", time.Hour, func() bool { return w.net.Height() > a.Start })
		if _, err := w.OpenPiece(t.Context(), a.Piece.CIDv1, from.Bearer); !errors.Is(err, deals.ErrUnauthorized) {
			t.Errorf("after the start: %v", err)
		}
		w.until("it is over", 5*time.Hour, func() bool { return w.attempts(wish)[0].State == deals.Missed })
	})
}

func TestATokenDiesWithItsAttempt(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		w.net.Add(1000, dealstest.Provider{GiveUp: true})
		w.start()
		wish := w.wish("x", 1)
		w.until("it has failed", time.Hour, func() bool {
			all := w.attempts(wish)
			return len(all) > 0 && all[0].State == deals.Failed
		})
		a := w.attempts(wish)[0]
		if _, err := w.OpenPiece(t.Context(), a.Piece.CIDv1, w.net.TransferOf(a.UUID).Bearer); !errors.Is(err, deals.ErrUnauthorized) {
			t.Errorf("got %v", err)
		}
	})
}

// flip changes one character of a token.
func flip(token string) string {
	b := []byte(token)
	if b[30] == 'A' {
		b[30] = 'B'
	} else {
		b[30] = 'A'
	}
	return string(b)
}

func TestForbiddenPieceIsServedNoMore(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		slow := honest()
		slow.Curio, slow.NeverPublish = true, true
		w.net.Add(1000, slow)
		var forbidden atomic.Bool
		w.Forbid(func(root cid.Cid) bool { return forbidden.Load() })
		w.start()
		wish := w.wish("x", 1)
		w.until("it is accepted", time.Minute, func() bool { return w.standing(wish).Accepted == 1 })
		a := w.attempts(wish)[0]
		bearer := w.net.TransferOf(a.UUID).Bearer
		f, err := w.OpenPiece(t.Context(), a.Piece.CIDv1, bearer)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}()
		if _, err := f.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		forbidden.Store(true)
		if n, err := f.Read(make([]byte, 10)); n > 0 || !errors.Is(err, deals.ErrUnauthorized) {
			t.Errorf("a transfer that runs goes on: %d bytes, %v", n, err)
		}
		if _, err := w.OpenPiece(t.Context(), a.Piece.CIDv1, bearer); !errors.Is(err, deals.ErrUnauthorized) {
			t.Errorf("opened again: %v", err)
		}
	})
}

func TestForbiddenContentSaysNothingAboutItsProvider(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		waits := honest()
		waits.NeverPublish = true
		w.net.Add(1000, waits)
		var forbidden atomic.Bool
		w.Forbid(func(cid.Cid) bool { return forbidden.Load() })
		w.start()
		wish := w.wish("x", 1)
		w.until("it is accepted", time.Minute, func() bool { return w.standing(wish).Accepted == 1 })
		forbidden.Store(true)
		w.until("it has ended", 30*24*time.Hour, func() bool { return w.attempts(wish)[0].State.Final() })
		list, err := deals.NewRegistry(w.db, time.Now).Providers(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		if p := list[0]; p.Failures != 0 || p.Score != 0.5 || p.LastError != "" {
			t.Errorf("after %v: %d failures, score %v, %q", w.states(wish), p.Failures, p.Score, p.LastError)
		}
	})
}

// TestTheLayoutOfAPieceIsThereBeforeItIsProposed: whoever fetches a large piece would not wait for it to be made.
func TestTheLayoutOfAPieceIsThereBeforeItIsProposed(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		away := honest()
		away.Offline = true
		w.net.Add(1000, away)
		var failures bytes.Buffer
		w.log = slog.New(slog.NewTextHandler(&failures, &slog.HandlerOptions{Level: slog.LevelError}))
		w.make()
		w.start()
		wish := w.wish("x", 1)
		w.until("there is a piece", time.Minute, func() bool { return w.standing(wish).Piece != nil })
		if err := w.layouts.Remove(wish.Root); err != nil {
			t.Fatal(err)
		}
		data := w.blocks.forget(wish.Root)
		w.net.Add(1000, honest())
		registry := deals.NewRegistry(w.db, time.Now)
		before, err := registry.Provider(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if err := registry.Probe(t.Context(), 1000); err != nil {
			t.Fatal(err)
		}
		begun := len(w.attempts(wish))
		w.until("a deal is begun", time.Hour, func() bool { return len(w.attempts(wish)) > begun })
		pass(time.Minute)
		if n := len(w.net.Proposed()); n > 0 {
			t.Fatalf("%d deals were proposed of what cannot be served", n)
		}
		if p, err := registry.Provider(t.Context(), 1000); err != nil || p.Failures != before.Failures {
			t.Errorf("the provider is blamed: %+v, %v", p, err)
		}
		w.blocks.add(data)
		w.until("it is accepted", time.Hour, func() bool { return w.standing(wish).Accepted == 1 })
		w.blocks.forget(wish.Root)
		all := w.attempts(wish)
		a := all[len(all)-1]
		f, err := w.OpenPiece(t.Context(), a.Piece.CIDv1, w.net.TransferOf(a.UUID).Bearer)
		if err != nil {
			t.Fatal("the DAG has to be walked again:", err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		w.stop()
		if failures.Len() > 0 {
			t.Errorf("an operator is told of errors: %s", &failures)
		}
	})
}
