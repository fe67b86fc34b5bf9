package hot

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
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
	return pebbleds.NewDatastore(path, pebbleds.WithCacheSize(s.CacheSize), pebbleds.WithPebbleOpts(s.options(path, logOf(dir))))
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
