package pins

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Bounds on how far ahead a pin's end may be when it is made.
const (
	minLifetime = time.Second
	maxLifetime = 100 * 365 * day
	day         = 24 * time.Hour
)

// How often pins whose time has come are looked for, and how many are read at once.
const (
	expireEvery  = 5 * time.Second
	expireAtOnce = 100
)

// An Expiry says when a pin is removed by itself: at a time, or so long after it was created. The zero Expiry: never.
type Expiry struct {
	At    time.Time
	After time.Duration
}

// of is the end of a pin, zero for none, in whole milliseconds and never sooner than it was asked for.
func (e Expiry) of(created time.Time) time.Time {
	end := e.At
	if e.After > 0 {
		end = created.Add(e.After)
	}
	if end.IsZero() {
		return time.Time{}
	}
	return fromMS(end.Add(time.Millisecond - 1).UnixMilli())
}

// readExpiry reads what a pin's meta says about its end. It refuses ends that are in the past or too far ahead.
func readExpiry(meta map[string]string, now time.Time) (Expiry, error) {
	text, said := meta[metaExpires]
	if !said {
		return Expiry{}, nil
	}
	e, ok := parseExpiry(text)
	if !ok {
		return Expiry{}, badMeta(metaExpires, "must be a time such as 2027-01-31T12:00:00Z, or a duration such as 720h or 30d")
	}
	ahead := e.After
	if !e.At.IsZero() {
		if !e.At.After(now) {
			return Expiry{}, badMeta(metaExpires, "is in the past")
		}
		ahead = e.At.Sub(now)
	} else if ahead < minLifetime {
		return Expiry{}, badMeta(metaExpires, "must be at least a second ahead")
	}
	if ahead > maxLifetime {
		return Expiry{}, badMeta(metaExpires, "is more than 100 years ahead; leave it out for a pin that stays")
	}
	return e, nil
}

func parseExpiry(text string) (Expiry, bool) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16) // 16 bits of days are no more than a Duration holds
		return Expiry{After: time.Duration(n) * day}, err == nil
	}
	if after, err := time.ParseDuration(text); err == nil {
		return Expiry{After: after}, true
	}
	at, err := time.Parse(time.RFC3339, text)
	return Expiry{At: at.UTC()}, err == nil && !at.IsZero()
}

// expiries removes pins whose time has come. What it has to do is in the rows, so any number of servers may do it, and
// one that was away makes up for it.
func (d *scheduler) expiries(ctx context.Context) {
	every(ctx, expireEvery, func(ctx context.Context) {
		if err := d.s.expire(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("removing pins whose time has come", "err", err)
		}
	})
}

// expire removes every pin whose time has come, each the way Delete does.
func (s *Service) expire(ctx context.Context) error {
	for {
		due, err := s.store.expired(ctx, expireAtOnce)
		if err != nil {
			return err
		}
		for _, p := range due {
			// Somebody else may have removed it; a pin's end never changes, so it is still due if it is there.
			if err := s.Delete(ctx, p.account, p.id); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		if len(due) < expireAtOnce {
			return nil
		}
	}
}
