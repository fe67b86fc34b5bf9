package ledger

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"time"
)

const (
	flushInterval = 10 * time.Second
	lastFlush     = 5 * time.Second // how long the flush at the end may take
)

// An Egress counts bytes as they are sent and books them every ten seconds. A process that is killed loses at most what
// it counted since, which nobody is charged for.
type Egress struct {
	ledger *Service
	source string // this process's

	mu     sync.Mutex
	counts map[sent]int64

	flushing sync.Mutex
	seq      int64
	pending  []Charge // of seq; perhaps booked already
}

// A sent is whose bytes, from which tier.
type sent struct {
	account int64
	kind    Kind
}

// Egress returns a meter that has counted nothing.
func (s *Service) Egress() *Egress {
	return &Egress{ledger: s, source: strings.ToLower(rand.Text()), counts: make(map[sent]int64)}
}

// Add counts bytes that were written to a reader of an account's content, of kind EgressHot or EgressCold.
func (e *Egress) Add(account int64, kind Kind, bytes int64) {
	if bytes <= 0 || (kind != EgressHot && kind != EgressCold) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts[sent{account, kind}] += bytes
}

// Flush books what was counted. After an error it is tried again with the next flush, under the same number: whether the
// first try was booked or not, the second one does not book it twice.
func (e *Egress) Flush(ctx context.Context) error {
	e.flushing.Lock()
	defer e.flushing.Unlock()
	for {
		if len(e.pending) == 0 {
			e.take()
		}
		if len(e.pending) == 0 {
			return nil
		}
		if err := e.ledger.flush(ctx, e.source, e.seq, e.pending); err != nil {
			return fmt.Errorf("booking what was sent: %w", err)
		}
		e.pending = nil
	}
}

// take makes charges of the counters.
func (e *Egress) take() {
	e.mu.Lock()
	counts := e.counts
	e.counts = make(map[sent]int64, len(counts))
	e.mu.Unlock()
	if len(counts) == 0 {
		return
	}
	e.seq++
	at := e.ledger.now()
	for s, bytes := range counts {
		e.pending = append(e.pending, Charge{
			Account: s.account, Kind: s.kind, Qty: big.NewInt(bytes), At: at,
			Key: fmt.Sprintf("%s/%s/%d/%d", s.kind, e.source, e.seq, s.account),
		})
	}
}

// Run flushes every ten seconds until ctx ends, and once more then.
func (e *Egress) Run(ctx context.Context) {
	ticker := time.NewTicker(flushInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := e.Flush(ctx); err != nil && ctx.Err() == nil {
				e.ledger.log.LogAttrs(ctx, slog.LevelWarn, "booking egress failed; it is tried again", slog.Any("err", err))
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			if err := e.Flush(last); err != nil {
				e.ledger.log.LogAttrs(last, slog.LevelWarn, "egress of the last seconds is lost", slog.Any("err", err))
			}
			return
		}
	}
}

func (s *Service) flush(ctx context.Context, source string, seq int64, charges []Charge) error {
	plans, err := s.plansOf(ctx, charges)
	if err != nil {
		return err
	}
	return s.insertEgress(ctx, source, seq, charges, plans)
}
