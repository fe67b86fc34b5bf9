package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Level says how full it is.
type Level int32

const (
	Roomy  Level = iota // below both marks
	Scarce              // at the watermark: nothing new should be begun
	Full                // at the stop mark: nothing more should be written
)

// String is the level in a word.
func (l Level) String() string {
	switch l {
	case Scarce:
		return "nearly full"
	case Full:
		return "full"
	case Roomy:
	}
	return "roomy"
}

// Space is how large a file system is and what this user may still write there, in bytes.
type Space struct {
	Device      string // the same for two directories on one file system
	Total, Free int64
}

// Config says what is watched and where the marks are.
type Config struct {
	Dirs      []string // that exist, or will
	Reserve   int64    // bytes; Full below that. 0: DefaultReserve, or a twentieth of a small file system
	Watermark int      // percent that are used; Scarce from there. 0: 90, or what leaves DefaultMargin free on a large one
	Statfs    func(dir string) (Space, error)
}

// Defaults of the marks.
const (
	DefaultReserve   = 5 << 30
	DefaultMargin    = 50 << 30
	defaultWatermark = 90
	reserveShare     = 20 // of a file system is the most that is reserved by default
)

const lookEvery = 250 * time.Millisecond

// A Guard watches. Its methods may be called concurrently.
type Guard struct {
	cfg   Config
	log   *slog.Logger
	level atomic.Int32

	mu    sync.Mutex
	seen  map[string]seen // by device
	blind bool            // the last look has failed
}

type seen struct {
	Space
	dir   string
	level Level
}

// New looks once, so that the level is right from the start.
func New(cfg Config, log *slog.Logger) *Guard {
	if cfg.Statfs == nil {
		cfg.Statfs = Statfs
	}
	g := &Guard{cfg: cfg, log: log, seen: map[string]seen{}}
	g.Look()
	return g
}

// Run looks again and again until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
			g.Look()
		}
	}
}

// Level is how full it is, as of the last look.
func (g *Guard) Level() Level { return Level(g.level.Load()) }

// Look looks now.
func (g *Guard) Look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := map[string]seen{}
	var problems []error
	for _, dir := range g.cfg.Dirs {
		space, err := g.cfg.Statfs(existing(dir))
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("looking at the file system of %s: %w", dir, err))
			continue
		}
		if _, again := now[space.Device]; !again && space.Total > 0 {
			now[space.Device] = seen{space, dir, g.judge(space, g.seen[space.Device].level)}
		}
	}
	if len(problems) > 0 && !g.blind {
		g.log.Warn("cannot see how full a disk is", "err", errors.Join(problems...))
	}
	g.blind = len(problems) > 0
	if len(now) == 0 {
		return
	}
	g.seen = now
	fullest := g.fullest()
	if before := Level(g.level.Swap(int32(fullest.level))); before != fullest.level {
		tell := g.log.Warn
		if fullest.level < before {
			tell = g.log.Info
		}
		tell("how full the disk is has changed",
			"level", fullest.level.String(), "dir", fullest.dir, "free", fullest.Free, "total", fullest.Total)
	}
}

// fullest is the file system that decides.
func (g *Guard) fullest() seen {
	var worst seen
	for _, s := range g.seen {
		if worst.dir == "" || s.level > worst.level || s.level == worst.level && s.Free < worst.Free {
			worst = s
		}
	}
	return worst
}

// judge is the level of one file system that had one before.
func (g *Guard) judge(s Space, before Level) Level {
	watermark, stop := g.marks(s.Total)
	level := Roomy
	switch {
	case s.Free < stop, before == Full && s.Free < stop+slack(stop):
		level = Full
	case s.Free <= watermark, before != Roomy && s.Free < watermark+slack(watermark):
		level = Scarce
	}
	return level
}

// slack is how much more than a mark must be free for its level to be left.
func slack(mark int64) int64 { return min(mark/20, 256<<20) }

// marks are the bytes that are free at the watermark and at the stop mark, the former never less.
func (g *Guard) marks(total int64) (watermark, stop int64) {
	stop = g.cfg.Reserve
	if stop == 0 {
		stop = min(DefaultReserve, total/reserveShare)
	}
	used := int64(g.cfg.Watermark)
	if used == 0 {
		used = defaultWatermark
	}
	watermark = total / 100 * (100 - used)
	if g.cfg.Watermark == 0 {
		watermark = min(watermark, DefaultMargin)
	}
	return max(watermark, stop), stop
}

// Check fails when the disk is not roomy, and says where it is not.
func (g *Guard) Check(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.fullest()
	if s.level == Roomy {
		return nil
	}
	watermark, stop := g.marks(s.Total)
	if s.level == Full {
		return fmt.Errorf("the disk of %s is full: %d bytes are free, and below %d nothing more is taken", s.dir, s.Free, stop)
	}
	return fmt.Errorf("the disk of %s is nearly full: %d bytes are free, and below %d nothing new is fetched", s.dir, s.Free, watermark)
}

// existing is dir, or the nearest directory above it that exists.
func existing(dir string) string {
	for {
		if _, err := filepath.EvalSymlinks(dir); !errors.Is(err, fs.ErrNotExist) {
			return dir
		}
		above := filepath.Dir(dir)
		if above == dir {
			return dir
		}
		dir = above
	}
}

// Collectors returns the metrics for registration.
func (g *Guard) Collectors() []prometheus.Collector { return []prometheus.Collector{gauges{g}} }

type gauges struct{ g *Guard }

var (
	freeDesc  = prometheus.NewDesc("frostpin_disk_free_bytes", "What may still be written to the file system of a directory.", []string{"dir"}, nil)
	levelDesc = prometheus.NewDesc("frostpin_disk_level", "0: there is room. 1: nearly full, nothing new is fetched. 2: full, nothing more is taken.", nil, nil)
)

// Describe implements prometheus.Collector.
func (gauges) Describe(out chan<- *prometheus.Desc) { out <- freeDesc; out <- levelDesc }

// Collect implements prometheus.Collector.
func (m gauges) Collect(out chan<- prometheus.Metric) {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	var all []seen
	for _, s := range m.g.seen {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b seen) int { return len(a.dir) - len(b.dir) })
	for _, s := range all {
		out <- prometheus.MustNewConstMetric(freeDesc, prometheus.GaugeValue, float64(s.Free), s.dir)
	}
	out <- prometheus.MustNewConstMetric(levelDesc, prometheus.GaugeValue, float64(m.g.Level()))
}
