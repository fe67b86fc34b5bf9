package server

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/labstack/echo/v4"
	"golang.org/x/time/rate"

	"github.com/frostpin/frostpin/auth"
)

// How many buckets are remembered. One that is forgotten was not used for long, or begins full again: whoever makes
// others forget has to come from that many places.
const (
	knownBudgets   = 50_000
	knownAddresses = 50_000
)

// Wrong tokens, and tries to sign up, per address.
const (
	triesPerMinute = 10
	triesBurst     = 10
)

// A limited request came too soon after others.
type limited struct {
	why   string
	after time.Duration // until the next may come
	burst int
}

func (l *limited) Error() string { return l.why }

// seconds is when to come again, in whole seconds: a client that comes too early is refused once more.
func (l *limited) seconds() int { return max(1, int(math.Ceil(l.after.Seconds()))) }

// tell adds what clients look for when they are refused.
func (l *limited) tell(h http.Header) {
	h.Set("Retry-After", strconv.Itoa(l.seconds()))
	h.Set("X-RateLimit-Limit", strconv.Itoa(l.burst))
	h.Set("X-RateLimit-Remaining", "0")
	h.Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Unix()+int64(l.seconds()), 10))
}

// A bucket is a budget of one account for one kind of request.
type bucket struct {
	account int64
	kind    auth.Kind
}

// buckets remembers how much of their budgets accounts have spent on this server.
type buckets struct {
	of *lru.Cache[bucket, *rate.Limiter]
}

// spend takes requests from a caller's budget, all or none. Error: *limited.
func (b *buckets) spend(caller *auth.Caller, kind auth.Kind, n int) error {
	if caller.Limits == nil || n == 0 {
		return nil
	}
	r, bounded := caller.Limits.Rates[kind]
	if !bounded {
		return nil
	}
	limiter := remembered(b.of, bucket{caller.Account, kind}, rate.Limit(r.PerSecond), r.Burst)
	if after := take(limiter, n); after > 0 {
		return &limited{fmt.Sprintf("too many requests of the kind %q for this account's plan", kind), after, r.Burst}
	}
	return nil
}

// remembered is the limiter of a key, with the rate that counts now.
func remembered[K comparable](of *lru.Cache[K, *rate.Limiter], key K, limit rate.Limit, burst int) *rate.Limiter {
	limiter, ok := of.Get(key)
	if !ok {
		limiter = rate.NewLimiter(limit, burst)
		if other, ok, _ := of.PeekOrAdd(key, limiter); ok {
			limiter = other
		}
	}
	if limiter.Limit() != limit {
		limiter.SetLimit(limit)
	}
	if limiter.Burst() != burst {
		limiter.SetBurst(burst)
	}
	return limiter
}

// take takes some from a limiter, or tells how long it takes until there are as many.
func take(limiter *rate.Limiter, n int) time.Duration {
	now := time.Now()
	reserved := limiter.ReserveN(now, n)
	after := reserved.DelayFrom(now)
	if after > 0 {
		reserved.CancelAt(now)
	}
	return after
}

// tries bounds what strangers may try from one address.
type tries struct {
	what string // in words
	who  echo.IPExtractor
	from *lru.Cache[netip.Prefix, *rate.Limiter]
}

func newTries(what string, who echo.IPExtractor) tries {
	return tries{what, who, newLRU[netip.Prefix, *rate.Limiter](knownAddresses)}
}

func (t *tries) limiter(address netip.Prefix) *rate.Limiter {
	return remembered(t.from, address, rate.Limit(triesPerMinute)/60, triesBurst)
}

// exhausted tells whether an address has no try left. It takes none. Error: *limited.
func (t *tries) exhausted(r *http.Request) error {
	limiter, ok := t.from.Get(t.address(r))
	if !ok {
		return nil
	}
	left := limiter.Tokens()
	if left >= 1 {
		return nil
	}
	return t.refuse(time.Duration((1 - left) * float64(time.Minute) / triesPerMinute))
}

// spend takes one try. Error: *limited.
func (t *tries) spend(r *http.Request) error {
	if after := take(t.limiter(t.address(r)), 1); after > 0 {
		return t.refuse(after)
	}
	return nil
}

func (t *tries) refuse(after time.Duration) error {
	return &limited{"too many " + t.what + " from this address", after, triesBurst}
}

// address is where a request comes from: the host itself, or for IPv6 its network, of which a host has all addresses.
func (t *tries) address(r *http.Request) netip.Prefix {
	ip, err := netip.ParseAddr(t.who(r))
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits) // fails for more bits than there are
	return prefix
}

func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	cache, err := lru.New[K, V](size)
	if err != nil {
		panic(err) // only for a size below one
	}
	return cache
}
