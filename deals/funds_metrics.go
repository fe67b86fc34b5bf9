package deals

import (
	"math/big"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/prometheus/client_golang/prometheus"
)

// collectors are the keeper's metrics. It is one itself: what it shows is what it saw last.
func (k *keeper) collectors() []prometheus.Collector { return []prometheus.Collector{k} }

// A fundsMetric describes a gauge. Floats are for the eye: nothing is decided on them.
func fundsMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("frostpin_deals_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector: its metrics depend on what was seen, so they are not checked beforehand.
func (k *keeper) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (k *keeper) Collect(out chan<- prometheus.Metric) {
	k.mu.Lock()
	seen, reserved, looked, alarm := k.seen, k.reserved, k.looked, k.alarm
	k.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	raised := fundsMetric("funds_alarm", "1 while funds need the operator for this reason.", "alarm")
	for _, code := range alarmCodes() {
		on := 0.0
		if code == alarm.Code {
			on = 1
		}
		gauge(raised, on, code)
	}
	if !looked {
		return
	}
	gauge(fundsMetric("wallet_fil", "FIL in the wallet."), inFIL(seen.Wallet))
	escrow := fundsMetric("escrow_fil", "FIL in the market: locked by deals, reserved for proposals, or free.", "part")
	free := new(big.Int).Sub(amount(seen.Escrow).Int, amount(seen.Locked).Int)
	free.Sub(free, amount(reserved).Int)
	gauge(escrow, inFIL(seen.Locked), "locked")
	gauge(escrow, inFIL(reserved), "reserved")
	gauge(escrow, inFIL(abi.TokenAmount{Int: free}), "free")
	gauge(fundsMetric("datacap_bytes", "Bytes of datacap."), inFloat(seen.Datacap))
}

func inFloat(v abi.TokenAmount) float64 {
	f, _ := new(big.Float).SetInt(amount(v).Int).Float64()
	return f
}

func inFIL(v abi.TokenAmount) float64 { return inFloat(v) / 1e18 }
