package deals

import (
	"context"
	"log/slog"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	fbig "github.com/filecoin-project/go-state-types/big"
	"github.com/prometheus/client_golang/prometheus"
	"gorm.io/gorm"
)

// A Money is the part of the package that tests of money reach.
type Money struct {
	db    DB
	store *store
	now   func() time.Time
}

// NewMoney holds the lease of the maker.
func NewMoney(ctx context.Context, db DB, now func() time.Time) (*Money, error) {
	m := &Money{db: db, store: &store{db: db, now: now, me: "test/1"}, now: now}
	_, err := m.store.seize(ctx, time.Hour)
	return m, err
}

func (m *Money) Charge(ctx context.Context, day string, cost abi.TokenAmount, c Caps) error {
	return m.db.Write(ctx, func(tx *gorm.DB) error { return m.store.charge(tx, day, cost, c) })
}

func (m *Money) Refund(ctx context.Context, day string, cost abi.TokenAmount) error {
	return m.db.Write(ctx, func(tx *gorm.DB) error { return m.store.refund(tx, day, cost) })
}

func (m *Money) Outcome(ctx context.Context, id ProviderID, o Outcome) error {
	return m.db.Write(ctx, func(tx *gorm.DB) error { return m.store.outcome(tx, id, o, m.now()) })
}

// LoseLease gives the lease to another process.
func (m *Money) LoseLease(ctx context.Context) error {
	return m.db.Write(ctx, func(tx *gorm.DB) error { return tx.Exec(`UPDATE maker SET holder = 'other/1'`).Error })
}

// Plan records a movement, if the day's bound allows it and none is under way.
func (m *Money) Plan(ctx context.Context, op FundOp, perDay abi.TokenAmount) (bool, error) {
	return m.store.planFundOp(ctx, op, perDay)
}

// A Keeper is the keeper of escrow.
type Keeper struct{ *keeper }

func (m *Money) Keeper(f Funding, chain Chain, log *slog.Logger, at func(string)) Keeper {
	return Keeper{newKeeper(f, m.store, chain, log, m.now, at)}
}

func (k Keeper) Step(ctx context.Context) (bool, error)    { return k.step(ctx) }
func (k Keeper) Run(ctx context.Context) error             { return k.run(ctx) }
func (k Keeper) Want(slot SlotID, attoFIL abi.TokenAmount) { k.want(slot, attoFIL) }
func (k Keeper) Alarm() Alarm                              { k.mu.Lock(); defer k.mu.Unlock(); return k.alarm }

func (k Keeper) Metrics() []prometheus.Collector { return k.collectors() }

// A Prober asks providers.
type Prober struct{ *prober }

func (m *Money) Prober(chain Chain, market Market, log *slog.Logger) Prober {
	return Prober{newProber(m.store, chain, market, log, m.now)}
}

func (p Prober) Run(ctx context.Context) error                              { return p.run(ctx) }
func (p Prober) Probe(ctx context.Context, id ProviderID) (Provider, error) { return p.probe(ctx, id) }

// CanonicalJSON is for the vectors of RFC 8785.
func CanonicalJSON(v any) ([]byte, error) { return canonicalJSON(v) }

// DivideCost divides an amount by lengths.
func DivideCost(total int64, lengths []int64) (shares []int64) {
	parts := make([]part, len(lengths))
	for i, n := range lengths {
		parts[i].length = n
	}
	for _, s := range divide(fbig.NewInt(total), parts) {
		shares = append(shares, s.Int64())
	}
	return shares
}
