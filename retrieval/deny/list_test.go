package deny_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/retrieval/deny"
)

// of is the CID of a text.
func of(codec uint64, text string) cid.Cid {
	hash, err := multihash.Sum([]byte(text), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(codec, hash)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, texts ...string) (*deny.List, []string, *strings.Builder) {
	t.Helper()
	dir := t.TempDir()
	var names []string
	for i, text := range texts {
		name := filepath.Join(dir, string(rune('a'+i))+".deny")
		write(t, name, text)
		names = append(names, name)
	}
	log := new(strings.Builder)
	l, err := deny.Open(names, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return l, names, log
}

func parsed(t *testing.T, s string) path.Path {
	t.Helper()
	p, err := path.NewPath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEveryKindOfRuleDenies(t *testing.T) {
	plain, legal, double, below := of(cid.Raw, "plain"), of(cid.DagProtobuf, "legal"), of(cid.DagProtobuf, "double"), of(cid.DagProtobuf, "below")
	sum := sha256.Sum256([]byte(double.String() + "/"))
	l, names, _ := open(t, "version: 1\nname: Test\n---\n# a comment\n\n"+
		"/ipfs/"+plain.String()+"\n"+
		"/ipfs/"+legal.String()+" gateway_status=451\n"+
		"//"+hex.EncodeToString(sum[:])+"\n"+
		"/ipfs/"+below.String()+"/secret*") // and no newline
	for _, c := range []struct {
		c      cid.Cid
		line   uint64
		status int
	}{
		{plain, 6, 410},
		{cid.NewCidV1(cid.DagCBOR, plain.Hash()), 6, 410}, // another codec, the same bytes
		{legal, 7, 451},
		{cid.NewCidV0(legal.Hash()), 7, 451},
		{double, 8, 410},
	} {
		err := l.Denied(c.c)
		m, ok := errors.AsType[*deny.Match](err)
		if !ok || m.Line != c.line || m.Status() != c.status || m.List != names[0] {
			t.Errorf("%s: %+v", c.c, m)
			continue
		}
		if want := c.c.String() + " is blocked and cannot be provided"; err.Error() != want {
			t.Errorf("text %q: boxo looks for %q", err, want)
		}
		if err := l.DeniedPath(parsed(t, "/ipfs/"+c.c.String())); err == nil {
			t.Errorf("%s as a path is let through", c.c)
		}
	}
	for p, want := range map[string]bool{
		"/ipfs/" + below.String():                                     false,
		"/ipfs/" + below.String() + "/other":                          false,
		"/ipfs/" + below.String() + "/secret":                         true,
		"/ipfs/" + below.String() + "/secrets/1":                      true,
		"/ipfs/" + cid.NewCidV0(below.Hash()).String() + "/secret/a/": true,
	} {
		if got := l.DeniedPath(parsed(t, p)) != nil; got != want {
			t.Errorf("%s: denied: %t", p, got)
		}
	}
	if err := l.Denied(of(cid.Raw, "other")); err != nil {
		t.Error(err)
	}
}

func TestFirstListThatHasARuleDecides(t *testing.T) {
	c := of(cid.Raw, "x")
	l, _, _ := open(t, "!/ipfs/"+c.String()+"\n", "/ipfs/"+c.String()+"\n")
	if err := l.Denied(c); err != nil {
		t.Error(err)
	}
	l, _, _ = open(t, "/ipfs/"+c.String()+"\n", "!/ipfs/"+c.String()+"\n")
	if err := l.Denied(c); err == nil {
		t.Error("let through")
	}
}

func TestListsAreReloadedWithoutRestart(t *testing.T) {
	a, b := of(cid.Raw, "a"), of(cid.Raw, "b")
	l, names, log := open(t, "/ipfs/"+a.String()+"\n")
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		denied := func(wantA, wantB bool) {
			t.Helper()
			<-time.After(6 * time.Second)
			synctest.Wait()
			if gotA, gotB := l.Denied(a) != nil, l.Denied(b) != nil; gotA != wantA || gotB != wantB {
				t.Errorf("denied: a %t, b %t", gotA, gotB)
			}
		}
		denied(true, false)
		// Appended.
		write(t, names[0], "/ipfs/"+a.String()+"\n/ipfs/"+b.String()+"\n")
		denied(true, true)
		// Replaced by a rename, as tools that update lists do.
		write(t, names[0]+".new", "/ipfs/"+b.String()+"\n/ipfs/"+a.String()[:59]+"\n")
		if err := os.Rename(names[0]+".new", names[0]); err != nil {
			t.Fatal(err)
		}
		denied(true, true)
		write(t, names[0], "/ipfs/"+b.String()+"\n")
		denied(false, true)
		// Gone: the last rules stay, and the operator hears of it.
		if err := os.Remove(names[0]); err != nil {
			t.Fatal(err)
		}
		denied(false, true)
		if !strings.Contains(log.String(), "its last rules stay") {
			t.Errorf("logged:\n%s", log)
		}
		write(t, names[0], "")
		denied(false, false)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestListThatCannotBeReadStopsTheStart(t *testing.T) {
	name := filepath.Join(t.TempDir(), "none")
	if _, err := deny.Open([]string{name}, slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	write(t, name, "version: 2\n---\n")
	if _, err := deny.Open([]string{name}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a version of the format that is not known was read")
	}
}

func TestLinesThatMeanNothingAreNamed(t *testing.T) {
	good := "/ipfs/" + of(cid.Raw, "a").String() + "\n"
	_, _, log := open(t, "name: x\n---\n"+good+"/ipfs/nonsense\n//short\n"+good)
	if !strings.Contains(log.String(), "lines=2 first=4") {
		t.Errorf("logged:\n%s", log)
	}
	_, _, log = open(t, good+good)
	if strings.Contains(log.String(), "mean nothing") {
		t.Errorf("logged:\n%s", log)
	}
}

func TestLinesOfSpacesMeanNothing(t *testing.T) {
	c := of(cid.Raw, "a")
	l, _, log := open(t, "version: 1\n---\n \n\t\n/ipfs/"+c.String()+"\n\u2003\n ")
	if err := l.Denied(c); err == nil {
		t.Errorf("the rule between them is not read; logged:\n%s", log)
	}
	if strings.Contains(log.String(), "mean nothing") {
		t.Errorf("logged:\n%s", log)
	}
}

// Whatever is in a file, reading and asking end.
func FuzzList(f *testing.F) {
	c := of(cid.Raw, "a")
	f.Add("version: 1\n---\n/ipfs/"+c.String()+" a=b\n", "x/y")
	f.Add("//"+strings.Repeat("ab", 32)+"\n!/ipns/example.org/x*\n/*\n", "")
	f.Add("---\n---\n", "..")
	f.Add(" ", "x")
	name := filepath.Join(f.TempDir(), "list")
	f.Fuzz(func(t *testing.T, text, below string) {
		write(t, name, text)
		l, err := deny.Open([]string{name}, slog.New(slog.DiscardHandler))
		if err != nil {
			return
		}
		if m, ok := errors.AsType[*deny.Match](l.Denied(c)); ok && !strings.Contains(m.Error(), "blocked and cannot be provided") {
			t.Error(m)
		}
		p, err := path.NewPath("/ipfs/" + c.String() + "/" + below)
		if err != nil {
			return
		}
		if m, ok := errors.AsType[*deny.Match](l.DeniedPath(p)); ok && m.What == "" {
			t.Error(m)
		}
	})
}
