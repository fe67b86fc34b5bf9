package piece

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
)

const (
	maxLinks   = 1 << 17 // links that wait for their turn, some 100 bytes each; more are read again when it comes
	maxGuesses = 48      // blocks that are fetched before it is their turn
	guessAhead = 4 << 20 // bytes of them below one node
	mostAhead  = 16      // and their number
)

// walk calls emit for every block below root in the order of the CAR, from this goroutine. data is only read.
func walk(ctx context.Context, blocks Blocks, root cid.Cid, emit func(c cid.Cid, data []byte) error) error {
	l := newLine(ctx, blocks, aheadWalk, aheadWalk)
	defer l.close()
	w := &walker{line: l, seen: newSeen()}
	l.fill(func() error { return w.walk(root) })
	for {
		f, err := l.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := emit(f.cid, f.data); err != nil {
			return err
		}
	}
}

// A walker finds out the order of the blocks, running ahead of those who use them. Leaves it only names; for what may
// have links it has to wait, so it asks for the next few of a node's children while it waits for the first.
type walker struct {
	line    *line
	seen    *seen
	path    []*step // from the root down
	pending int     // links in path
	guesses int     // in path
}

// A step is a node on the way down.
type step struct {
	node    cid.Cid
	links   []cid.Cid // nil when they were dropped
	count   int       // of links
	next    int       // link to follow
	guessed int       // link up to which children were asked for
	guesses map[int]*fetch
}

func (w *walker) walk(root cid.Cid) error {
	if err := w.visit(root, nil); err != nil {
		return err
	}
	for len(w.path) > 0 {
		top := w.path[len(w.path)-1]
		if top.links == nil {
			if err := w.reload(top); err != nil {
				return err
			}
		}
		w.guess(top)
		child, guess := top.links[top.next], top.guesses[top.next]
		if guess != nil {
			delete(top.guesses, top.next)
			w.guesses--
		}
		if top.next++; top.next == top.count { // before its last child, so that a long chain takes no room
			w.path[len(w.path)-1] = nil // else its links stay
			w.path = w.path[:len(w.path)-1]
			w.pending -= top.count
		}
		if err := w.visit(child, guess); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) visit(c cid.Cid, f *fetch) error {
	if !w.seen.add(c) {
		return nil
	}
	data, inline, err := identity(c)
	if err != nil {
		return err
	}
	if !inline {
		if f == nil {
			f = w.line.fetch(c, -1)
		}
		if err := w.line.put(f); err != nil || leaf(c) {
			return err
		}
		<-f.done
		if data, err = f.data, f.err; err != nil {
			return nil //nolint:nilerr // who takes the block from the line meets it, after those before it
		}
	}
	below, err := links(c, data)
	if err != nil || len(below) == 0 {
		return err
	}
	w.path = append(w.path, &step{node: c, links: below, count: len(below), guesses: make(map[int]*fetch)})
	w.pending += len(below)
	for _, s := range w.path[:len(w.path)-1] { // the further up, the later they are needed
		if w.pending <= maxLinks {
			break
		}
		w.pending -= len(s.links)
		s.links = nil
	}
	return nil
}

// reload reads the links of a step again.
func (w *walker) reload(s *step) error {
	data, inline, err := identity(s.node)
	if err == nil && !inline {
		f := w.line.start(w.line.fetch(s.node, -1))
		<-f.done
		data, err = f.data, f.err
	}
	if err != nil {
		return fmt.Errorf("reading block %s: %w", s.node, err)
	}
	if s.links, err = links(s.node, data); err != nil {
		return err
	}
	if len(s.links) != s.count {
		return fmt.Errorf("block %s has changed", s.node)
	}
	w.pending += s.count
	return nil
}

// guess asks for children of the lowest step that come soon and may have links. Those of steps above it make room:
// their turn comes later than was thought.
func (w *walker) guess(top *step) {
	w.line.mu.Lock()
	window := int(max(1, min(mostAhead, guessAhead/w.line.largest)))
	w.line.mu.Unlock()
	top.guessed = max(top.guessed, top.next)
	for ; top.guessed < min(top.count, top.next+window); top.guessed++ {
		c := top.links[top.guessed]
		if _, inline, _ := identity(c); inline || leaf(c) || w.seen.has(c) {
			continue
		}
		for i := 0; w.guesses >= maxGuesses; i++ {
			w.guesses -= len(w.path[i].guesses)
			clear(w.path[i].guesses)
		}
		top.guesses[top.guessed] = w.line.start(w.line.fetch(c, -1))
		w.guesses++
	}
}

// A seen is a set of CIDs. It keeps half of a keyed hash of each: nobody can choose CIDs that collide without the key.
type seen struct {
	in  []byte // the key, and the CID to be hashed
	set map[[16]byte]struct{}
}

const seenKey = 32

func newSeen() *seen {
	s := &seen{in: make([]byte, seenKey, 128), set: make(map[[16]byte]struct{})}
	rand.Read(s.in)
	return s
}

func (s *seen) key(c cid.Cid) [16]byte {
	s.in = append(s.in[:seenKey], c.KeyString()...)
	sum := sha256.Sum256(s.in)
	return [16]byte(sum[:16])
}

func (s *seen) has(c cid.Cid) bool {
	_, ok := s.set[s.key(c)]
	return ok
}

// add reports whether c is new.
func (s *seen) add(c cid.Cid) bool {
	before := len(s.set)
	s.set[s.key(c)] = struct{}{}
	return len(s.set) > before
}
