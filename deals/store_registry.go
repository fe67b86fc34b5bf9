package deals

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// A Registry is the list of storage providers as the operator manages it, beside a running service or without one. All
// methods may be called concurrently. What it changes wakes copies that wait for a provider.
type Registry struct {
	store *store
	now   func() time.Time
}

// NewRegistry returns the registry in a database.
func NewRegistry(db DB, now func() time.Time) *Registry {
	return &Registry{store: &store{db: db, now: now}, now: now}
}

// Providers returns all, by number.
func (r *Registry) Providers(ctx context.Context) ([]Provider, error) {
	return r.store.providerList(ctx)
}

// Provider returns one, or ErrNoProvider.
func (r *Registry) Provider(ctx context.Context, id ProviderID) (Provider, error) {
	return r.store.readProvider(ctx, id)
}

// Add puts a provider into the registry. One that is there already is an error: Set changes it.
func (r *Registry) Add(ctx context.Context, d Decision) error {
	if err := d.Check(); err != nil {
		return err
	}
	return r.change(ctx, func(tx *gorm.DB) error {
		_, err := r.store.provider(tx, d.ID, true)
		if err == nil {
			return fmt.Errorf("%s is in the registry already", d.ID)
		}
		if !errors.Is(err, ErrNoProvider) {
			return err
		}
		return r.store.saveDecision(tx, d.provider())
	})
}

// Set changes what was decided about a provider: change gets what there is and returns what there shall be.
func (r *Registry) Set(ctx context.Context, id ProviderID, change func(Decision) Decision) error {
	return r.change(ctx, func(tx *gorm.DB) error {
		p, err := r.store.provider(tx, id, true)
		if err != nil {
			return err
		}
		d := change(p.Decision())
		d.ID = id
		if err := d.Check(); err != nil {
			return err
		}
		return r.store.saveDecision(tx, d.provider())
	})
}

// Probe has the running service ask providers now. When it has, their ProbedAt is later than the time of this call.
func (r *Registry) Probe(ctx context.Context, ids ...ProviderID) error {
	return r.store.db.Write(ctx, func(tx *gorm.DB) error {
		for _, id := range ids {
			if _, err := r.store.provider(tx, id, true); err != nil {
				return err
			}
			if err := r.store.probeSoon(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// Remove takes a provider out of the registry. While deals with it are alive it must stay, for it has to be asked how
// they go: deny it instead.
func (r *Registry) Remove(ctx context.Context, id ProviderID) error {
	return r.change(ctx, func(tx *gorm.DB) error { return r.remove(tx, id) })
}

func (r *Registry) remove(tx *gorm.DB, id ProviderID) error {
	if _, err := r.store.provider(tx, id, true); err != nil {
		return err
	}
	live, err := r.store.liveWith(tx, id)
	if err != nil {
		return err
	}
	if live > 0 {
		return fmt.Errorf("%s has %d deals that are alive: deny it instead of removing it", id, live)
	}
	return r.store.deleteProvider(tx, id)
}

// Changes is what Apply has done.
type Changes struct{ Added, Changed, Removed, Denied []ProviderID }

// Apply makes the registry as a list says, all or nothing: it adds and changes providers, and with prune those that
// are not in the list are removed, or denied while deals with them are alive.
func (r *Registry) Apply(ctx context.Context, list []Decision, prune bool) (c Changes, err error) {
	var wrong []error
	seen := map[ProviderID]bool{}
	for _, d := range list {
		wrong = append(wrong, d.Check())
		if seen[d.ID] {
			wrong = append(wrong, fmt.Errorf("%s: it is named twice", d.ID))
		}
		seen[d.ID] = true
	}
	if err := errors.Join(wrong...); err != nil {
		return Changes{}, err
	}
	err = r.change(ctx, func(tx *gorm.DB) error {
		c = Changes{}
		for _, d := range list {
			if err := r.apply(tx, d, &c); err != nil {
				return err
			}
		}
		if !prune {
			return nil
		}
		return r.prune(tx, seen, &c)
	})
	return c, err
}

func (r *Registry) apply(tx *gorm.DB, d Decision, c *Changes) error {
	before, err := r.store.provider(tx, d.ID, true)
	switch {
	case errors.Is(err, ErrNoProvider):
		c.Added = append(c.Added, d.ID)
	case err != nil:
		return err
	case before.Decision().equal(d.provider().Decision()):
		return nil
	default:
		c.Changed = append(c.Changed, d.ID)
	}
	return r.store.saveDecision(tx, d.provider())
}

func (r *Registry) prune(tx *gorm.DB, keep map[ProviderID]bool, c *Changes) error {
	list, err := r.store.providerList(tx.Statement.Context)
	if err != nil {
		return err
	}
	for _, p := range list {
		if keep[p.ID] {
			continue
		}
		live, err := r.store.liveWith(tx, p.ID)
		switch {
		case err != nil:
			return err
		case live == 0:
			c.Removed = append(c.Removed, p.ID)
			err = r.store.deleteProvider(tx, p.ID)
		case p.Trust != Denied:
			c.Denied = append(c.Denied, p.ID)
			p.Trust = Denied
			err = r.store.saveDecision(tx, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// change runs a change and wakes whoever may have waited for it.
func (r *Registry) change(ctx context.Context, fn func(tx *gorm.DB) error) error {
	return r.store.db.Write(ctx, func(tx *gorm.DB) error {
		if err := fn(tx); err != nil {
			return err
		}
		return r.store.wakeSlots(tx, r.now())
	})
}
