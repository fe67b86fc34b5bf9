package deals_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/filecoin-project/go-state-types/abi"

	"github.com/frostpin/frostpin/deals"
)

// usable is a provider against which nothing speaks.
func usable(id deals.ProviderID, change ...func(*deals.Provider)) deals.Provider {
	p := deals.Provider{
		ID: id, Trust: deals.Neutral, SectorSize: 32 << 30, Score: 0.5, ProbedAt: noon,
		Ask: &deals.Ask{Price: atto(100), VerifiedPrice: atto(10), MinPiece: 256, MaxPiece: 32 << 30},
	}
	for _, c := range change {
		c(&p)
	}
	return p
}

// question is one to which usable is an answer.
func question(change ...func(*deals.Question)) deals.Question {
	q := deals.Question{
		Size: 1 << 20, Terms: deals.Terms{Replicas: 1, Days: 180},
		Caps: deals.Caps{PerGiBEpoch: atto(1000), PerDeal: atto(1 << 60), PerDay: atto(1 << 60), PerMonth: atto(1 << 60)},
		Now:  noon,
	}
	for _, c := range change {
		c(&q)
	}
	return q
}

func TestAProviderIsRefusedForExactlyOneReason(t *testing.T) {
	later := noon.Add(3 * time.Minute)
	for _, c := range []struct {
		name     string
		provider func(*deals.Provider)
		question func(*deals.Question)
		want     string
		retry    time.Time
	}{
		{name: "denied", provider: func(p *deals.Provider) { p.Trust = deals.Denied }, want: "denied by the operator"},
		{name: "not named", question: func(q *deals.Question) { q.Terms.Providers = []deals.ProviderID{1001} }, want: "not among those asked for"},
		{name: "other region", provider: func(p *deals.Provider) { p.Region = "US" }, question: func(q *deals.Question) { q.Region = "EU" }, want: "outside the region EU"},
		{name: "region unknown", question: func(q *deals.Question) { q.Region = "EU" }, want: "outside the region EU"},
		{name: "taken", question: func(q *deals.Question) { q.Taken = map[deals.ProviderID]bool{1000: true} }, want: "already with a copy"},
		{
			name: "refused", question: func(q *deals.Question) { q.MayYet = map[deals.ProviderID]bool{1000: true} },
			want: "not asked again until the deal that they refused or gave up can no longer begin",
		},
		{name: "never asked", provider: func(p *deals.Provider) { p.Ask = nil }, want: "not asked for their price yet"},
		{name: "no answer", provider: func(p *deals.Provider) { p.ProbeError = "gone" }, want: "not answering"},
		{name: "old answer", provider: func(p *deals.Provider) { p.ProbedAt = noon.Add(-2 * time.Hour) }, want: "without a recent answer"},
		{name: "breaker open", provider: func(p *deals.Provider) { p.OpenUntil = later }, want: "left alone after failures in a row", retry: later},
		{name: "cooling", question: func(q *deals.Question) { q.Cooling = map[deals.ProviderID]time.Time{1000: later} }, want: "failed with this piece lately", retry: later},
		{name: "larger than its ask", provider: func(p *deals.Provider) { p.Ask.MaxPiece = 1 << 19 }, want: "not for pieces of this size"},
		{name: "larger than the operator's bound", provider: func(p *deals.Provider) { p.MaxPiece = 1 << 19 }, want: "not for pieces of this size"},
		{name: "larger than its sectors", provider: func(p *deals.Provider) { p.SectorSize = 1 << 19 }, want: "not for pieces of this size"},
		{name: "least size above the service's", provider: func(p *deals.Provider) { p.Ask.MinPiece = 1 << 30 }, question: func(q *deals.Question) { q.MaxPiece = 1 << 29 }, want: "not for pieces of this size"},
		{name: "too dear", provider: func(p *deals.Provider) { p.Ask.Price = atto(1001) }, want: "above the price cap"},
		{name: "dearer than its own cap", provider: func(p *deals.Provider) { p.PriceCap = atto(99) }, want: "above the price cap"},
		{name: "deal too dear", question: func(q *deals.Question) { q.Caps.PerDeal = atto(518_399) }, want: "above the cap for a deal"},
		{name: "busy", question: func(q *deals.Question) { q.Busy = map[deals.ProviderID]int{1000: 2} }, want: "busy", retry: noon.Add(time.Minute)},
		{name: "busy by its own bound", provider: func(p *deals.Provider) { p.Concurrency = 1 }, question: func(q *deals.Question) { q.Busy = map[deals.ProviderID]int{1000: 1} }, want: "busy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, q := usable(1000), question()
			if _, err := deals.Choose([]deals.Provider{p}, q); err != nil {
				t.Fatalf("the provider as it is was refused: %v", err)
			}
			if c.provider != nil {
				c.provider(&p)
			}
			if c.question != nil {
				c.question(&q)
			}
			_, err := deals.Choose([]deals.Provider{p}, q)
			none := new(deals.NoneError)
			if !errors.As(err, &none) || none.Reason != "1 provider: "+c.want {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if !none.Retry.After(q.Now) || none.Retry.After(q.Now.Add(15*time.Minute)) || !c.retry.IsZero() && !none.Retry.Equal(c.retry) {
				t.Errorf("it is tried again at %s", none.Retry)
			}
			if _, err := deals.Fits(p, []deals.Provider{p}, q); !errors.As(err, &none) {
				t.Errorf("Fits accepts it: %v", err)
			}
		})
	}
}

func TestBoundsThatAreJustMetAreMet(t *testing.T) {
	p := usable(1000, func(p *deals.Provider) {
		p.Ask.Price, p.Ask.MaxPiece, p.Region, p.ProbedAt = atto(1000), 1<<20, "EU", noon.Add(-time.Hour)
	})
	q := question(func(q *deals.Question) {
		q.Region, q.MaxPiece = "eu ", 1<<20
		q.Caps.PerDeal = atto(518_400) // one attoFIL per epoch
		q.Cooling, q.Busy = map[deals.ProviderID]time.Time{1000: noon}, map[deals.ProviderID]int{1000: 1}
	})
	got, err := deals.Choose([]deals.Provider{p}, q)
	if err != nil || got.Provider.ID != 1000 || !got.Price.Equals(atto(1000)) || got.Size != 1<<20 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestCapsCountForTheOperatorsWordOnAProviderInBothDirections(t *testing.T) {
	dear := usable(1000, func(p *deals.Provider) { p.Ask.Price, p.PriceCap = atto(5000), atto(5000) })
	if _, err := deals.Choose([]deals.Provider{dear}, question()); err != nil {
		t.Errorf("a cap that was raised for a provider does not count: %v", err)
	}
	free := usable(1001, func(p *deals.Provider) { p.Ask.VerifiedPrice = atto(0) })
	q := question(func(q *deals.Question) { q.Caps = deals.Caps{} })
	if _, err := deals.Choose([]deals.Provider{free}, q); err == nil {
		t.Error("caps of zero let a price through")
	}
	q.Verified = true
	if got, err := deals.Choose([]deals.Provider{free}, q); err != nil || !got.Price.Equals(atto(0)) {
		t.Errorf("caps of zero refuse what is free: %+v, %v", got, err)
	}
}

func TestThePieceGrowsToWhatTheProviderTakes(t *testing.T) {
	for _, c := range []struct{ natural, ask, operator, want abi.PaddedPieceSize }{
		{1 << 20, 256, 0, 1 << 20},
		{1 << 20, 1 << 25, 0, 1 << 25},
		{1 << 20, 1 << 25, 1 << 27, 1 << 27},
		{1 << 20, 3 << 20, 0, 1 << 22}, // some ask for what is no power of two
		{128, 0, 0, 128},
	} {
		p := usable(1000, func(p *deals.Provider) { p.Ask.MinPiece, p.MinPiece = c.ask, c.operator })
		got, err := deals.Choose([]deals.Provider{p}, question(func(q *deals.Question) { q.Size = c.natural }))
		if err != nil || got.Size != c.want {
			t.Errorf("%+v: got %d, %v", c, got.Size, err)
		}
	}
	p := usable(1000, func(p *deals.Provider) { p.Ask.MinPiece, p.Ask.MaxPiece, p.SectorSize = 1<<64-1, 0, 0 })
	if got, err := deals.Choose([]deals.Provider{p}, question()); err == nil {
		t.Errorf("a least size beyond all sectors: %+v", got)
	}
}

func TestTheAllowListIsAbsoluteAndTheDenyListWins(t *testing.T) {
	providers := []deals.Provider{
		usable(1000, func(p *deals.Provider) { p.Score = 1 }),
		usable(1001, func(p *deals.Provider) { p.Trust, p.Score = deals.Allowed, 0 }),
		usable(1002, func(p *deals.Provider) { p.Trust, p.Score = deals.Denied, 1 }),
	}
	got, err := deals.Choose(providers, question(func(q *deals.Question) { q.Prefer = 1000 }))
	if err != nil || got.Provider.ID != 1001 {
		t.Errorf("got %s, %v", got.Provider.ID, err)
	}
	if _, err := deals.Choose(providers, question(func(q *deals.Question) { q.Terms.Providers = []deals.ProviderID{1000, 1002} })); err == nil ||
		err.Error() != "3 providers: 1 denied by the operator, 1 not on the operator's allow list, 1 not among those asked for" {
		t.Errorf("got %v", err)
	}
}

func TestTheReasonCountsProvidersByWhatKeepsThemOut(t *testing.T) {
	holding := map[deals.ProviderID]bool{1000: true, 1001: true, 1002: true}
	dear := func(p *deals.Provider) { p.Ask.Price = atto(9999) }
	providers := []deals.Provider{usable(1000), usable(1001), usable(1002), usable(1003, dear), usable(1004, dear)}
	_, err := deals.Choose(providers, question(func(q *deals.Question) { q.Taken = holding }))
	if err == nil || err.Error() != "5 providers: 3 already with a copy, 2 above the price cap" {
		t.Errorf("got %v", err)
	}
	_, err = deals.Choose(providers[:3], question(func(q *deals.Question) { q.Taken = holding }))
	if err == nil || err.Error() != "3 providers: all already with a copy" {
		t.Errorf("got %v", err)
	}
	_, err = deals.Choose(nil, question())
	if err == nil || !strings.Contains(err.Error(), "no storage provider is known") {
		t.Errorf("got %v", err)
	}
}

func TestTheBestIsChosenThenTheCheapestThenTheLeastBusy(t *testing.T) {
	score := func(v float64) func(*deals.Provider) { return func(p *deals.Provider) { p.Score, p.Successes = v, 9 } }
	price := func(v int64) func(*deals.Provider) { return func(p *deals.Provider) { p.Ask.Price = atto(v) } }
	for _, c := range []struct {
		name      string
		providers []deals.Provider
		want      deals.ProviderID
	}{
		{"score", []deals.Provider{usable(1, score(0.4)), usable(2, score(0.9)), usable(3, score(0.7))}, 2},
		{"price among equals", []deals.Provider{usable(1, score(0.91), price(300)), usable(2, score(0.97), price(301)), usable(3, score(0.94), price(300), price(299))}, 3},
		{"price of the padded piece", []deals.Provider{usable(1, score(0.9), price(100), func(p *deals.Provider) { p.Ask.MinPiece = 1 << 34 }), usable(2, score(0.9), price(900))}, 2},
		{"load", []deals.Provider{usable(7), usable(8)}, 8},
		{"number", []deals.Provider{usable(9), usable(6), usable(8)}, 6},
	} {
		got, err := deals.Choose(c.providers, question(func(q *deals.Question) { q.Size, q.Busy = 1<<30, map[deals.ProviderID]int{7: 1} }))
		if err != nil || got.Provider.ID != c.want {
			t.Errorf("%s: got %s, %v", c.name, got.Provider.ID, err)
		}
	}
	preferred := []deals.Provider{usable(1, score(1)), usable(2, score(0), price(1000))}
	got, err := deals.Choose(preferred, question(func(q *deals.Question) { q.Prefer = 2 }))
	if err != nil || got.Provider.ID != 2 {
		t.Errorf("a renewal goes to %s first, %v", got.Provider.ID, err)
	}
}

func TestTheUnknownAreTriedNowAndThen(t *testing.T) {
	providers := []deals.Provider{
		usable(1, func(p *deals.Provider) { p.Score, p.Successes = 1, 100 }),
		usable(2), usable(3),
	}
	chosen := map[deals.ProviderID]int{}
	random := rand.New(rand.NewPCG(1, 2))
	const n = 4000
	for range n {
		got, err := deals.Choose(providers, question(func(q *deals.Question) { q.Rand = random }))
		if err != nil {
			t.Fatal(err)
		}
		chosen[got.Provider.ID]++
	}
	for _, id := range []deals.ProviderID{2, 3} {
		if chosen[id] < n/32 || chosen[id] > n/8 {
			t.Errorf("%s was tried %d times of %d", id, chosen[id], n)
		}
	}
	if chosen[1] < n*3/4 {
		t.Errorf("the best was taken only %d times of %d", chosen[1], n)
	}
}
