package hot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	pebbleds "github.com/ipfs/go-ds-pebble"
	"github.com/ipfs/kubo/repo"
	"github.com/ipfs/kubo/repo/fsrepo"
	"golang.org/x/time/rate"
)

// A pebbleStore is Kubo's pebble datastore on a file system that waits for room. pebble ends the process when it cannot
// write its log; Kubo's own configuration of it leaves no way to tell it otherwise. The parameters are Kubo's.
type pebbleStore struct {
	Path                        string `json:"path"`
	CacheSize                   int64  `json:"cacheSize"`
	BytesPerSync                int    `json:"bytesPerSync"`
	DisableWAL                  bool   `json:"disableWAL"`
	FormatMajorVersion          uint64 `json:"formatMajorVersion"`
	L0CompactionThreshold       int    `json:"l0CompactionThreshold"`
	L0StopWritesThreshold       int    `json:"l0StopWritesThreshold"`
	LBaseMaxBytes               int64  `json:"lBaseMaxBytes"`
	MaxConcurrentCompactions    int    `json:"maxConcurrentCompactions"`
	MemTableSize                uint64 `json:"memTableSize"`
	MemTableStopWritesThreshold int    `json:"memTableStopWritesThreshold"`
	WALBytesPerSync             int    `json:"walBytesPerSync"`
	WALMinSyncSeconds           int    `json:"walMinSyncIntervalSeconds"`
}

var _ fsrepo.DatastoreConfig = pebbleStore{}

// parsePebble is an fsrepo.ConfigFromMap.
func parsePebble(params map[string]any) (fsrepo.DatastoreConfig, error) {
	text, err := json.Marshal(params)
	if err != nil {
		return nil, fmt.Errorf("reading the settings of pebble: %w", err)
	}
	var s pebbleStore
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("reading the settings of pebble: %w", err)
	}
	if s.Path == "" {
		return nil, errors.New("reading the settings of pebble: there is no path")
	}
	return s, nil
}

// DiskSpec implements fsrepo.DatastoreConfig. It is what Kubo's own says, so that repositories stay the same.
func (s pebbleStore) DiskSpec() fsrepo.DiskSpec {
	return map[string]any{"type": Pebble, "path": s.Path}
}

// Create implements fsrepo.DatastoreConfig.
func (s pebbleStore) Create(dir string) (repo.Datastore, error) {
	path := s.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("creating the directory of pebble: %w", err)
	}
	store, err := pebbleds.NewDatastore(path, pebbleds.WithCacheSize(s.CacheSize), pebbleds.WithPebbleOpts(s.options(path, logOf(dir))))
	if err != nil {
		return nil, err
	}
	return &pebbleDatastore{Datastore: store, listings: make(map[*listing]struct{})}, nil
}

func (s pebbleStore) options(path string, log *slog.Logger) *pebble.Options {
	o := &pebble.Options{
		EventListener:               listener(log),
		FS:                          vfs.OnDiskFull(vfs.Default, func() { awaitRoom(path) }),
		BytesPerSync:                s.BytesPerSync,
		DisableWAL:                  s.DisableWAL,
		FormatMajorVersion:          pebble.FormatMajorVersion(s.FormatMajorVersion),
		L0CompactionThreshold:       s.L0CompactionThreshold,
		L0StopWritesThreshold:       s.L0StopWritesThreshold,
		LBaseMaxBytes:               s.LBaseMaxBytes,
		MemTableSize:                s.MemTableSize,
		MemTableStopWritesThreshold: s.MemTableStopWritesThreshold,
		WALBytesPerSync:             s.WALBytesPerSync,
	}
	if s.FormatMajorVersion == 0 {
		o.FormatMajorVersion = pebble.FormatNewest
	}
	if s.MaxConcurrentCompactions != 0 {
		o.CompactionConcurrencyRange = func() (int, int) { return 1, s.MaxConcurrentCompactions }
	}
	if s.WALMinSyncSeconds != 0 {
		o.WALMinSyncInterval = func() time.Duration { return time.Duration(s.WALMinSyncSeconds) * time.Second }
	}
	return o
}

// storeLogs are the logs of the repositories that are being opened, by their directory: Kubo hands a store nothing else.
var storeLogs sync.Map

func logOf(dir string) *slog.Logger {
	if log, ok := storeLogs.Load(filepath.Clean(dir)); ok {
		return log.(*slog.Logger) //nolint:forcetypeassert // nothing else is stored
	}
	return slog.Default()
}

// listener logs what is wrong with the disk. Without it pebble ends the process when it reads a block whose checksum is
// wrong, again after each restart; whoever reads the block gets an error as well, which says enough.
func listener(log *slog.Logger) *pebble.EventListener {
	var damage, failure rate.Sometimes // a wrong block is read again and again, and a compaction tried
	damage.First, damage.Interval = 1, time.Minute
	failure.First, failure.Interval = 1, time.Minute
	return &pebble.EventListener{
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			damage.Do(func() {
				log.Error("a file of the block store is damaged", "file", info.Path, "err", info.Details.Error())
			})
		},
		BackgroundError: func(err error) {
			failure.Do(func() { log.Error("the block store cannot put its files in order", "err", err.Error()) })
		},
	}
}

// A pebbleDatastore tells when a listing cannot be read to its end. That of go-ds-pebble just ends, and a collection
// that is told of half the pins would remove what the others hold.
type pebbleDatastore struct {
	*pebbleds.Datastore

	mu       sync.Mutex
	closed   bool
	listings map[*listing]struct{}
}

var _ repo.Datastore = (*pebbleDatastore)(nil)

// Query implements datastore.Datastore.
func (d *pebbleDatastore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	prefix := datastore.NewKey(q.Prefix).String()
	if prefix != "/" {
		prefix += "/"
	}
	above := prefix[:len(prefix)-1] + string('/'+1)
	l, err := d.list(ctx, q, &pebble.IterOptions{LowerBound: []byte(prefix), UpperBound: []byte(above)})
	if err != nil {
		return nil, err
	}
	rest := q
	rest.Prefix = ""
	if len(q.Orders) > 0 {
		switch q.Orders[0].(type) { // which no two entries have in common
		case query.OrderByKey, *query.OrderByKey:
			rest.Orders = nil
		}
	}
	all := query.ResultsFromIterator(q, query.Iterator{Next: l.next, Close: l.close})
	return query.NaiveQueryApply(rest, all), nil
}

func (d *pebbleDatastore) list(ctx context.Context, q query.Query, where *pebble.IterOptions) (*listing, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errStoreClosed
	}
	iter, err := d.DB.NewIterWithContext(ctx, where)
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	l := &listing{store: d, query: q, iter: iter}
	d.listings[l] = struct{}{}
	return l, nil
}

// Close implements datastore.Datastore. Listings that are open end with an error.
func (d *pebbleDatastore) Close() error {
	d.mu.Lock()
	d.closed = true
	open := slices.Collect(maps.Keys(d.listings))
	d.mu.Unlock()
	for _, l := range open {
		_ = l.close()
	}
	return d.Datastore.Close()
}

var errStoreClosed = errors.New("the block store is closed")

// A listing is one pass over keys.
type listing struct {
	store *pebbleDatastore
	query query.Query

	mu            sync.Mutex
	iter          *pebble.Iterator
	begun, closed bool
	ended         bool // everything, or the error, was told
}

func (l *listing) next() (query.Result, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return query.Result{}, false
	}
	if l.closed {
		return l.fail(errStoreClosed)
	}
	move := l.iter.Next
	if !l.begun {
		l.begun, move = true, l.iter.First
	}
	if !move() {
		if err := l.iter.Error(); err != nil {
			return l.fail(err)
		}
		l.ended = true
		return query.Result{}, false
	}
	e := query.Entry{Key: string(l.iter.Key())}
	if l.query.KeysOnly && !l.query.ReturnsSizes {
		return query.Result{Entry: e}, true
	}
	value, err := l.iter.ValueAndErr()
	if err != nil {
		return l.fail(err)
	}
	if !l.query.KeysOnly {
		e.Value = bytes.Clone(value)
	}
	if l.query.ReturnsSizes {
		e.Size = len(value)
	}
	return query.Result{Entry: e}, true
}

// fail ends the listing. l.mu is held.
func (l *listing) fail(err error) (query.Result, bool) {
	l.ended = true
	return query.Result{Error: fmt.Errorf("listing keys: %w", err)}, true
}

func (l *listing) close() error {
	l.store.mu.Lock()
	delete(l.store.listings, l)
	l.store.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	_ = l.iter.Close() // its error was told by next
	return nil
}

// Room that there must be before a write that found none is tried again, which pebble does once.
const (
	leastRoom = 8 << 20
	roomEvery = 250 * time.Millisecond
)

// awaitRoom returns when something can be written below dir again. Writes wait meanwhile, also those that a stop of the
// node would make; the process then ends without them, which loses nothing that was acknowledged.
func awaitRoom(dir string) {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	for range tick.C {
		if free := freeSpace(dir); free < 0 || free >= leastRoom {
			return
		}
	}
}
