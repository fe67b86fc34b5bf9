package deals

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/frostpin/frostpin/deals/piece"
)

// A meter mirrors the state machine in metrics. What is a fact of the database is read when it is asked for, at most
// once in countEvery.
type meter struct {
	s              *Service
	moves          *prometheus.CounterVec
	stages         *prometheus.HistogramVec
	pieces, bytes  prometheus.Counter
	pieceBytes     prometheus.Counter
	pieceSeconds   prometheus.Histogram
	rounds         prometheus.Histogram
	deals, lag     *prometheus.Desc
	calls, waiting *prometheus.Desc

	mu      sync.Mutex
	counted time.Time
	tallies []tally
}

func newMeter(s *Service) *meter {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "frostpin_" + name, Help: help})
	}
	return &meter{
		s: s,
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "frostpin_deal_moves_total", Help: "Deals that came into a state, by provider.",
		}, []string{"state", "provider"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "frostpin_deal_stage_seconds", Help: "Time from the intent to a state.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 11),
		}, []string{"state"}),
		pieces:     counter("pieces_built_total", "Pieces made: DAGs walked for their commitment."),
		pieceBytes: counter("piece_bytes_built_total", "Bytes of CARs that commitments were computed over."),
		bytes:      counter("piece_bytes_served_total", "Bytes of pieces read by storage providers."),
		pieceSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "frostpin_piece_seconds", Help: "Time of making a piece.", Buckets: prometheus.ExponentialBuckets(0.01, 4, 10),
		}),
		rounds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "frostpin_deal_round_seconds", Help: "Time of comparing all active deals with the chain.", Buckets: prometheus.ExponentialBuckets(0.005, 4, 8),
		}),
		deals:   prometheus.NewDesc("frostpin_deals", "Deals by state and provider.", []string{"state", "provider"}, nil),
		lag:     prometheus.NewDesc("frostpin_chain_final_lag_epochs", "Epochs from the last final tipset to the head.", nil, nil),
		calls:   prometheus.NewDesc("frostpin_chain_calls_total", "Requests sent to the Filecoin node.", nil, nil),
		waiting: prometheus.NewDesc("frostpin_deal_looks_late_seconds", "How long the deal that waits longest to be looked at is overdue.", nil, nil),
	}
}

// moved counts a change of state.
func (m *meter) moved(before, after Attempt) {
	m.moves.WithLabelValues(string(after.State), after.Provider.String()).Inc()
	if !before.State.Final() && !after.State.Final() {
		m.stages.WithLabelValues(string(after.State)).Observe(after.ChangedAt.Sub(after.PlannedAt).Seconds())
	}
}

func (m *meter) built(p piece.Piece, took time.Duration) {
	m.pieces.Inc()
	m.pieceBytes.Add(float64(p.CARSize))
	m.pieceSeconds.Observe(took.Seconds())
}

func (m *meter) served(n int) { m.bytes.Add(float64(n)) }

func (m *meter) round(took time.Duration) { m.rounds.Observe(took.Seconds()) }

// Collectors returns the service's metrics for registration.
func (s *Service) Collectors() []prometheus.Collector {
	m := s.meter
	return append([]prometheus.Collector{m.moves, m.stages, m.pieces, m.bytes, m.pieceBytes, m.pieceSeconds, m.rounds, m},
		s.keeper.collectors()...)
}

// Describe implements prometheus.Collector.
func (m *meter) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.deals, m.lag, m.calls, m.waiting} {
		out <- d
	}
}

const (
	scrapeTime = 5 * time.Second // bounds the queries behind one scrape
	countEvery = time.Minute
)

// Collect implements prometheus.Collector. What does not answer is left out.
func (m *meter) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, t := range m.count(ctx) {
		gauge(m.deals, float64(t.n), string(t.state), t.provider.String())
	}
	if at, err := m.s.store.oldestDue(ctx); err == nil {
		late := 0.0
		if !at.IsZero() {
			late = max(0, m.s.now().Sub(at).Seconds())
		}
		gauge(m.waiting, late)
	}
	if m.s.parts.Chain == nil {
		return
	}
	out <- prometheus.MustNewConstMetric(m.calls, prometheus.CounterValue, float64(m.s.parts.Chain.Calls()))
	if heads, err := m.s.parts.Chain.Heads(ctx); err == nil {
		gauge(m.lag, float64(heads.Head-heads.Final))
	}
}

// count returns the attempts by state and provider as they were counted last.
func (m *meter) count(ctx context.Context) []tally {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := m.s.now(); m.counted.IsZero() || now.Sub(m.counted) >= countEvery {
		if tallies, err := m.s.store.tallies(ctx); err == nil {
			m.tallies, m.counted = tallies, now
		}
	}
	return m.tallies
}
