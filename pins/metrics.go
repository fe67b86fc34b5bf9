package pins

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A meter mirrors the state machine in metrics. What is a fact of the database is read when it is asked for.
type meter struct {
	s                                *Service
	heldDAGs, blocks, bytes          prometheus.Counter
	misses, releases, losses, gcGone prometheus.Counter
	restores, verified, damaged      prometheus.Counter
	broughtBack                      prometheus.Counter
	letGo                            *prometheus.CounterVec
	walks                            *prometheus.HistogramVec
	gcSeconds                        prometheus.Histogram
	pins, running                    *prometheus.Desc
	queueAge, holdUps                *prometheus.Desc
	collections                      atomic.Int64 // that have ended
}

func newMeter(s *Service) *meter {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "frostpin_" + name, Help: help})
	}
	return &meter{
		s:           s,
		heldDAGs:    counter("dags_held_total", "DAGs that became held."),
		blocks:      counter("blocks_held_total", "Blocks of DAGs that became held."),
		bytes:       counter("bytes_held_total", "Bytes of DAGs that became held."),
		misses:      counter("find_misses_total", "Time slices in which a root block was not found."),
		releases:    counter("dags_released_total", "DAGs let go after their last pin."),
		losses:      counter("hot_copies_lost_total", "Hot copies found missing and fetched again."),
		restores:    counter("dags_restored_total", "DAGs read back from cold copies."),
		verified:    counter("bytes_verified_total", "Bytes of held DAGs that were read and hashed again."),
		damaged:     counter("hot_copies_damaged_total", "Hot copies in which blocks were found missing or wrong."),
		broughtBack: counter("dags_brought_back_total", "DAGs that were not hot and are restored because they are read often."),
		letGo: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "frostpin_dags_let_go_total", Help: "Hot copies let go for their cold copies, by reason.",
		}, []string{"reason"}),
		gcGone: counter("blocks_collected_total", "Blocks removed by collections."),
		walks: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "frostpin_walk_seconds", Help: "Time of one slice of fetching a DAG, by the state it led to.",
			Buckets: prometheus.ExponentialBuckets(0.005, 4, 10),
		}, []string{"hot"}),
		gcSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "frostpin_collection_seconds", Help: "Time of one collection of the hot tier.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 8),
		}),
		pins:     prometheus.NewDesc("frostpin_pins", "Pins by status.", []string{"status"}, nil),
		running:  prometheus.NewDesc("frostpin_roots_active", "DAGs being worked on by this process, by stage.", []string{"stage"}, nil),
		holdUps:  prometheus.NewDesc("frostpin_collections_held_up", "DAGs with missing or wrong blocks because of which the last collection has removed nothing.", nil, nil),
		queueAge: prometheus.NewDesc("frostpin_queue_age_seconds", "Age of the oldest DAG that nobody has looked for yet.", nil, nil),
	}
}

func (m *meter) held(blocks, bytes int64) {
	m.heldDAGs.Inc()
	m.blocks.Add(float64(blocks))
	m.bytes.Add(float64(bytes))
}

func (m *meter) walked(hot Hot, took time.Duration) {
	m.walks.WithLabelValues(string(hot)).Observe(took.Seconds())
}

func (m *meter) collected(blocks int64, took time.Duration) {
	m.collections.Add(1)
	m.gcGone.Add(float64(blocks))
	m.gcSeconds.Observe(took.Seconds())
}

// Collectors returns the service's metrics for registration.
func (s *Service) Collectors() []prometheus.Collector {
	m := s.meter
	return []prometheus.Collector{
		m.heldDAGs, m.blocks, m.bytes, m.misses, m.releases, m.losses, m.restores, m.verified, m.damaged, m.broughtBack, m.letGo, m.gcGone, m.walks, m.gcSeconds, m,
	}
}

// Describe implements prometheus.Collector.
func (m *meter) Describe(out chan<- *prometheus.Desc) {
	out <- m.pins
	out <- m.running
	out <- m.queueAge
	out <- m.holdUps
}

// scrapeTime bounds the queries behind one scrape.
const scrapeTime = 5 * time.Second

// Collect implements prometheus.Collector. A database that does not answer leaves its figures out.
func (m *meter) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if counts, err := m.s.store.counts(ctx); err == nil {
		for status, n := range counts {
			gauge(m.pins, float64(n), string(status))
		}
	}
	gauge(m.holdUps, float64(len(m.s.sched.urgent.dags())))
	finding, walking := m.s.sched.jobs.sizes()
	gauge(m.running, float64(finding), "finding")
	gauge(m.running, float64(walking), "walking")
	if since, waiting, err := m.s.store.oldestWait(ctx); err == nil {
		age := 0.0
		if waiting {
			age = m.s.now().Sub(since).Seconds()
		}
		gauge(m.queueAge, age)
	}
}
