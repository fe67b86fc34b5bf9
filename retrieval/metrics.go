package retrieval

import "github.com/prometheus/client_golang/prometheus"

// A meter counts what is read from where.
type meter struct {
	reads     *prometheus.CounterVec // blocks by tier: the hit ratio
	firstByte *prometheus.HistogramVec
	bytes     *prometheus.CounterVec // from afar, by kind of source
	lies      prometheus.Counter
	transfers *prometheus.CounterVec
	proofs    *prometheus.CounterVec
}

func newMeter() *meter {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "frostpin_retrieval_" + name, Help: help}, []string{label})
	}
	return &meter{
		reads: counter("blocks_total", "Blocks read, by the tier that had them.", "tier"),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "frostpin_retrieval_first_byte_seconds", Help: "Time until a tier began to answer.",
			Buckets: []float64{.0001, .001, .005, .02, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"tier"}),
		bytes:     counter("bytes_total", "Bytes of blocks that came from afar, by the kind of source.", "source"),
		lies:      prometheus.NewCounter(prometheus.CounterOpts{Name: "frostpin_retrieval_lies_total", Help: "Wrong bytes that providers have sent."}),
		transfers: counter("transfers_total", "Transfers of whole DAGs from providers, by how they ended.", "outcome"),
		proofs:    counter("proofs_total", "Cold copies that were read back, by the outcome.", "outcome"),
	}
}

// Collectors returns the metrics of the service.
func (s *Service) Collectors() []prometheus.Collector {
	m := s.meter
	return []prometheus.Collector{m.reads, m.firstByte, m.bytes, m.lies, m.transfers, m.proofs}
}
