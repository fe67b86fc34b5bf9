package retrieval

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"
)

// timesCodec is rawCodec with a number after a link for how often it is there.
type timesCodec struct{ rawCodec }

func (timesCodec) Links(_ cid.Cid, data []byte) (out []cid.Cid, _ error) {
	for text := range strings.FieldsSeq(string(data)) {
		link, times, _ := strings.Cut(text, "*")
		n, _ := strconv.Atoi(times)
		if c, err := cid.Decode(link); err == nil {
			out = append(out, slices.Repeat([]cid.Cid{c}, max(n, 1))...)
		}
	}
	return out, nil
}

// nodeOf is the CID of a node with this text.
func nodeOf(text string) cid.Cid { return cid.NewCidV1(cid.DagProtobuf, rawBlock(text).Hash()) }

// carried is the CID of a leaf that it carries itself.
func carried(text string) cid.Cid {
	hash, err := multihash.Sum([]byte(text), multihash.IDENTITY, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, hash)
}

// ladder is a DAG of so many nodes, each above the next, with very many links from each to two leaves, one of them carried.
func ladder(rungs int) *planted {
	const links = 50_000
	d := &planted{data: map[cid.Cid]string{}}
	leaf := rawBlock("leaf")
	d.data[leaf] = "leaf"
	below := ""
	for range rungs {
		text := fmt.Sprintf("%s %s*%d %s*%d", below, leaf, links/2, carried("carried"), links/2)
		d.root = nodeOf(text)
		d.data[d.root], below = text, d.root.String()
	}
	return d
}

// heap is how many bytes are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

const (
	rungs    = 60
	heapMost = 8 << 20 // all the links of a ladder are more than 70 MB
)

// stream is a CAR of these blocks.
func (d *planted) stream(list ...cid.Cid) io.Reader {
	out := bytes.NewBufferString("\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + string(list[0].Bytes()) + "\x67version\x01")
	for _, c := range list {
		out.Write(varint.ToUvarint(uint64(len(c.Bytes()) + len(d.data[c]))))
		out.Write(c.Bytes())
		out.WriteString(d.data[c])
	}
	return out
}

// rungsOf lists the nodes of a ladder from the top down, and its leaf.
func (d *planted) rungsOf() []cid.Cid {
	list := []cid.Cid{d.root}
	for {
		links, _ := timesCodec{}.Links(cid.Undef, []byte(d.data[list[len(list)-1]]))
		list = append(list, links[0])
		if links[0].Type() == cid.Raw {
			return list
		}
	}
}

func TestCARWithRepeatedLinksTakesLittleMemory(t *testing.T) {
	d := ladder(rungs)
	order := d.rungsOf()
	in := d.stream(order...)
	before, most, taken := heap(), int64(0), 0
	err := follow(streamReader{in}, step{d.root, 0}, 1<<20, 0, timesCodec{}, func(_ cid.Cid, _ []byte, depth int) error {
		if taken++; depth == rungs-1 {
			most = heap() - before
		}
		return nil
	})
	if err != nil || taken != len(order) {
		t.Fatalf("%d of %d blocks were taken: %v", taken, len(order), err)
	}
	if most > heapMost {
		t.Errorf("the walk holds %d bytes", most)
	}
}

// A watchedRack tells of each read.
type watchedRack struct {
	rack
	read func(c cid.Cid)
}

func (r *watchedRack) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	r.read(c)
	return r.rack.Block(ctx, c)
}

// restoring returns a service over a rack of what is here of a DAG; all of it comes block by block from a provider.
func restoring(d *planted, here ...cid.Cid) (*Service, *watchedRack, *wire) {
	hot := &watchedRack{rack: rack{blocks: map[string][]byte{}, puts: map[string]int{}}, read: func(cid.Cid) {}}
	for _, c := range here {
		hot.blocks[c.KeyString()] = []byte(d.data[c])
	}
	w := &wire{dag: d, senders: map[string]*sender{"f01000": {}}}
	s, _ := w.service()
	s.parts = Parts{Directory: w, Store: hot, Codec: timesCodec{}}
	return s, hot, w
}

func TestRestoreOfRepeatedLinksTakesLittleMemory(t *testing.T) {
	d := ladder(rungs)
	order := d.rungsOf()
	s, hot, _ := restoring(d, order...)
	before, most := heap(), int64(0)
	hot.read = func(c cid.Cid) {
		if c.Equals(order[rungs-1]) {
			most = heap() - before
		}
	}
	if err := s.Restore(t.Context(), d.root, Budget{}, nil); err != nil {
		t.Fatal(err)
	}
	if most > heapMost {
		t.Errorf("the walk holds %d bytes", most)
	}
}

// fan is a DAG of a node above so many leaves.
func fan(leaves int) (d *planted, order []cid.Cid) {
	d = &planted{data: map[cid.Cid]string{}}
	var links []string
	for i := range leaves {
		text := fmt.Sprintf("leaf %d", i)
		c := rawBlock(text)
		d.data[c], order, links = text, append(order, c), append(links, c.String())
	}
	text := strings.Join(links, " ")
	d.root = nodeOf(text)
	d.data[d.root] = text
	return d, append([]cid.Cid{d.root}, order...)
}

// What has more blocks than the limit is refused by its links, before they are asked for.
func TestTooManyLinksAreRefusedUnread(t *testing.T) {
	d, order := fan(51)
	budget := Budget{Blocks: 51}
	var refused *RefusedError
	t.Run("of a DAG", func(t *testing.T) {
		s, _, w := restoring(d, d.root)
		if err := s.Restore(t.Context(), d.root, budget, nil); !errors.As(err, &refused) {
			t.Errorf("ended with %v", err)
		}
		if n := len(w.senders["f01000"].asked); n != 0 {
			t.Errorf("%d blocks were asked for", n)
		}
	})
	t.Run("of a CAR", func(t *testing.T) {
		taken := 0
		err := follow(streamReader{d.stream(order...)}, step{d.root, 0}, 1<<20, budget.Blocks, timesCodec{}, func(cid.Cid, []byte, int) error {
			taken++
			return nil
		})
		if !errors.As(err, &refused) || taken != 1 {
			t.Errorf("%d blocks were taken: %v", taken, err)
		}
	})
	t.Run("but not of as many as may be", func(t *testing.T) {
		s, _, _ := restoring(d, d.root)
		if err := s.Restore(t.Context(), d.root, Budget{Blocks: 52}, nil); err != nil {
			t.Error(err)
		}
	})
}

// What is here is read once, however many leaves before it have to be fetched.
func TestLeavesThatAreHereAreReadOnce(t *testing.T) {
	d, order := fan(300)
	here := []cid.Cid{d.root}
	for i, c := range order[1:] {
		if i%30 != 0 {
			here = append(here, c)
		}
	}
	s, hot, _ := restoring(d, here...)
	reads := map[cid.Cid]int{}
	hot.read = func(c cid.Cid) { reads[c]++ }
	if err := s.Restore(t.Context(), d.root, Budget{}, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range here {
		if reads[c] != 1 {
			t.Fatalf("block %s was read %d times", c, reads[c])
		}
	}
}

// The order is that of a walk which keeps every link, and leaves out what it has visited.
func TestTodoKeepsTheOrderOfAWalk(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		links := map[cid.Cid][]cid.Cid{}
		var all []cid.Cid
		for i := range 40 {
			c := nodeOf(fmt.Sprint(i))
			for range min(len(all), random.IntN(6)) {
				links[c] = append(links[c], all[random.IntN(len(all))])
			}
			all = append(all, c)
		}
		root := all[len(all)-1]
		links[root] = append(links[root], all[random.IntN(30)], all[35], all[36])
		var want []cid.Cid
		seen := map[cid.Cid]bool{}
		var walk func(c cid.Cid)
		walk = func(c cid.Cid) {
			if seen[c] {
				return
			}
			seen[c] = true
			want = append(want, c)
			for _, l := range links[c] {
				walk(l)
			}
		}
		walk(root)
		var got []cid.Cid
		rest := newTodo(rawCodec{}, 0, step{root, 0})
		for at, more := rest.pop(); more; at, more = rest.pop() {
			got = append(got, at.cid)
			if err := rest.push(links[at.cid], at.depth+1); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v; want %v", got, want)
		}
	}
}
