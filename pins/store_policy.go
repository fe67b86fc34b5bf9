package pins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"gorm.io/gorm"
)

// What Policies answer.
var (
	ErrNoPolicy  = errors.New("no such policy")
	ErrBadPolicy = errors.New("not acceptable as a policy")
)

// A NamedPolicy is a policy that requests can name.
type NamedPolicy struct {
	Name string
	ColdPolicy
	Changed time.Time
}

// Policies are the named policies of one database. All methods may be called concurrently.
type Policies struct {
	db  DB
	now func() time.Time
}

// NewPolicies returns the policies of a database that has Migrations applied.
func NewPolicies(db DB, now func() time.Time) *Policies { return &Policies{db: db, now: now} }

// policyName is what fits on a command line and in a path.
var policyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Set makes a policy or changes it. Pins that were made under it before keep what they asked for. Errors: ErrBadPolicy.
func (p *Policies) Set(ctx context.Context, name string, policy ColdPolicy) error {
	if !policyName.MatchString(name) {
		return fmt.Errorf("%w: a name has 1 to 64 letters, digits or . _ - and begins with a letter or digit", ErrBadPolicy)
	}
	if err := policy.check(); err != nil {
		return err
	}
	text, err := json.Marshal(policy)
	if err != nil {
		return fmt.Errorf("setting policy %s: %w", name, err)
	}
	err = p.db.Write(ctx, func(tx *gorm.DB) error {
		return tx.Exec(`INSERT INTO cold_policies (name, policy, changed_ms) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET policy = excluded.policy, changed_ms = excluded.changed_ms`,
			name, string(text), p.now().UnixMilli()).Error
	})
	if err != nil {
		return fmt.Errorf("setting policy %s: %w", name, err)
	}
	return nil
}

// Get returns one policy. Errors: ErrNoPolicy.
func (p *Policies) Get(ctx context.Context, name string) (NamedPolicy, error) {
	found, err := p.read(ctx, `WHERE name = ?`, name)
	if err == nil && len(found) == 0 {
		err = ErrNoPolicy
	}
	if err != nil {
		return NamedPolicy{}, fmt.Errorf("reading policy %q: %w", name, err)
	}
	return found[0], nil
}

// List returns all policies by name.
func (p *Policies) List(ctx context.Context) ([]NamedPolicy, error) {
	found, err := p.read(ctx, `ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("listing policies: %w", err)
	}
	return found, nil
}

// Remove removes a policy. Pins that were made under it keep what they asked for. Errors: ErrNoPolicy.
func (p *Policies) Remove(ctx context.Context, name string) error {
	err := p.db.Write(ctx, func(tx *gorm.DB) error {
		gone := tx.Exec(`DELETE FROM cold_policies WHERE name = ?`, name)
		if gone.Error == nil && gone.RowsAffected == 0 {
			return ErrNoPolicy
		}
		return gone.Error
	})
	if err != nil {
		return fmt.Errorf("removing policy %q: %w", name, err)
	}
	return nil
}

func (p *Policies) read(ctx context.Context, where string, args ...any) (list []NamedPolicy, err error) {
	err = p.db.Read(ctx, func(tx *gorm.DB) error {
		list = nil
		return query(tx, func(r row) error {
			var n NamedPolicy
			var text string
			var changedMS int64
			if err := r.Scan(&n.Name, &text, &changedMS); err != nil {
				return err
			}
			n.Changed = fromMS(changedMS)
			list = append(list, n)
			return json.Unmarshal([]byte(text), &list[len(list)-1].ColdPolicy)
		}, `SELECT name, policy, changed_ms FROM cold_policies `+where, args...)
	})
	return list, err
}
