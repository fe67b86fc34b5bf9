package retrieval

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// recentFor is how long a block that was read hot is given to other readers without being read and hashed again. It is
// as long as a block may be read on after it was let go, and as a damage may stay unseen.
const recentFor = time.Second

// recents are verified blocks that were read a moment ago, the latest as far as they fit: what many read at once is
// read once. nil remembers nothing.
type recents struct {
	now  func() time.Time
	most int64 // bytes

	mu    sync.Mutex
	size  int64
	known *simplelru.LRU[string, recent]
}

type recent struct {
	block blocks.Block
	until time.Time
}

func newRecents(most int64, now func() time.Time) *recents {
	if most <= 0 {
		return nil
	}
	r := &recents{now: now, most: most}
	// The number is no bound of ours: even of empty blocks there are fewer.
	r.known, _ = simplelru.NewLRU(1<<20, func(_ string, old recent) { r.size -= weigh(old.block) })
	return r
}

// weigh is what a block costs, about, with its place.
func weigh(b blocks.Block) int64 { return int64(len(b.RawData())) + 256 }

func (r *recents) get(c cid.Cid) (blocks.Block, bool) {
	if r == nil {
		return nil, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	found, ok := r.known.Get(c.KeyString())
	switch {
	case !ok:
		return nil, false
	case !r.now().Before(found.until):
		r.known.Remove(c.KeyString())
		return nil, false
	}
	return found.block, true
}

func (r *recents) add(b blocks.Block) {
	if r == nil || weigh(b) > r.most {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known.Remove(b.Cid().KeyString())
	r.known.Add(b.Cid().KeyString(), recent{b, r.now().Add(recentFor)})
	for r.size += weigh(b); r.size > r.most; {
		r.known.RemoveOldest()
	}
}

// expire lets go of what is too old to be given.
func (r *recents) expire() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range r.known.Keys() {
		if old, ok := r.known.Peek(key); ok && !r.now().Before(old.until) {
			r.known.Remove(key)
		}
	}
}
