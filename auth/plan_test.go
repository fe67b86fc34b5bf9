package auth_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-gormigrate/gormigrate/v2"
	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

// clocked is a service whose clock the test moves.
func clocked(t *testing.T, fn func(t *testing.T, s *auth.Service, db *database.DB, clock *time.Time)) {
	databasetest.Each(t, auth.Migrations(), func(t *testing.T, db *database.DB) {
		clock := moment
		fn(t, auth.New(db, func() time.Time { return clock }), db, &clock)
	})
}

func TestScopesAreReadAsTheyAreWritten(t *testing.T) {
	for s := range auth.AllScopes + 1 {
		got, err := auth.ParseScopes(s.Names())
		if err != nil || got != s || strings.Join(got.Names(), " ") != s.String() {
			t.Errorf("%q: got %q, %v", s, got, err)
		}
	}
	for _, name := range []string{"", "pins", "pins:read pins:write", "ADMIN", "all"} {
		if _, err := auth.ParseScopes([]string{"upload", name}); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestTokenEndsWhenItExpires(t *testing.T) {
	clocked(t, func(t *testing.T, s *auth.Service, _ *database.DB, clock *time.Time) {
		alice := createAccount(t, s, "alice")
		text, token := mustCreate(t, s, auth.NewToken{Account: alice.ID, Scopes: auth.PinsRead, Expires: moment.Add(time.Hour)})
		if !token.Expires.Equal(moment.Add(time.Hour)) {
			t.Errorf("expires %v", token.Expires)
		}
		for after, ok := range map[time.Duration]bool{0: true, time.Hour - time.Millisecond: true, time.Hour: false, 48 * time.Hour: false} {
			*clock = moment.Add(after)
			_, err := s.Authenticate(t.Context(), text.Reveal())
			if ok && err != nil || !ok && !errors.Is(err, auth.ErrUnauthorized) {
				t.Errorf("after %v: %v", after, err)
			}
		}
		*clock = moment
		_, _, err := s.CreateToken(t.Context(), auth.Operator(), auth.NewToken{Account: alice.ID, Scopes: auth.PinsRead, Expires: moment})
		if !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("a token that never was valid: %v", err)
		}
	})
}

func TestNobodyGivesATokenMoreThanHeHas(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		ctx := t.Context()
		alice, bob := createAccount(t, s, "alice"), createAccount(t, s, "bob")
		_, strong := mustCreate(t, s, auth.NewToken{Account: alice.ID, Scopes: auth.AllScopes})
		by := auth.Actor{Account: alice.ID, Token: "x", Scopes: auth.AccountUse | auth.PinsRead}
		if _, _, err := s.CreateToken(ctx, by, auth.NewToken{Account: alice.ID, Scopes: auth.PinsRead}); err != nil {
			t.Error(err)
		}
		for name, c := range map[string]struct {
			account int64
			scopes  auth.Scopes
			want    error
		}{
			"more scopes":     {alice.ID, auth.PinsRead | auth.PinsWrite, auth.ErrScope},
			"other scopes":    {alice.ID, auth.Admin, auth.ErrScope},
			"no scopes":       {alice.ID, 0, auth.ErrInvalid},
			"another account": {bob.ID, auth.PinsRead, auth.ErrNotFound},
			"no account":      {bob.ID + 1, auth.PinsRead, auth.ErrNotFound},
		} {
			if _, _, err := s.CreateToken(ctx, by, auth.NewToken{Account: c.account, Scopes: c.scopes}); !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", name, err, c.want)
			}
		}
		if _, _, err := s.RotateToken(ctx, by, strong.ID, 0); !errors.Is(err, auth.ErrScope) {
			t.Errorf("rotating a stronger token: %v", err)
		}
		other := auth.Actor{Account: bob.ID, Token: "y", Scopes: auth.AllScopes}
		if _, _, err := s.RotateToken(ctx, other, strong.ID, 0); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("rotating another account's token: %v", err)
		}
		if err := s.RevokeToken(ctx, other, strong.ID); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("revoking another account's token: %v", err)
		}
		if tokens, err := s.AccountTokens(ctx, alice.ID); err != nil || len(tokens) != 2 {
			t.Errorf("%d tokens, %v", len(tokens), err)
		}
	})
}

func TestRotationHasNoGap(t *testing.T) {
	clocked(t, func(t *testing.T, s *auth.Service, _ *database.DB, clock *time.Time) {
		ctx := t.Context()
		alice := createAccount(t, s, "alice")
		old, token := mustCreate(t, s, auth.NewToken{
			Account: alice.ID, Label: "laptop", Policy: "small", Scopes: auth.PinsRead | auth.Upload, Expires: moment.Add(90 * 24 * time.Hour),
		})
		*clock = moment.Add(24 * time.Hour)
		text, next, err := s.RotateToken(ctx, auth.Operator(), token.ID, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		want := token
		want.ID, want.Created, want.Expires = next.ID, *clock, clock.Add(90*24*time.Hour)
		if diff := cmp.Diff(want, next); diff != "" || next.ID == token.ID {
			t.Errorf("the new token (-want +got):\n%s", diff)
		}
		works := func(secret auth.Secret, want bool) {
			t.Helper()
			if _, err := s.Authenticate(ctx, secret.Reveal()); (err == nil) != want {
				t.Errorf("at %v: %v", *clock, err)
			}
		}
		works(old, true)
		works(text, true)
		*clock = clock.Add(time.Hour)
		works(old, false)
		works(text, true)
		if _, _, err := s.RotateToken(ctx, auth.Operator(), token.ID, 0); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("rotating a token that has ended: %v", err)
		}
		if _, _, err := s.RotateToken(ctx, auth.Operator(), next.ID, auth.MaxGrace+1); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("a grace without end: %v", err)
		}
		last, _, err := s.RotateToken(ctx, auth.Operator(), next.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		works(text, false)
		works(last, true)
	})
}

func TestNoAccountPassesForTheOperatorInTheAudit(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		ctx := t.Context()
		code, _, err := s.CreateInvite(ctx, auth.Operator(), auth.Invite{Plan: auth.Public, Left: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"operator", "Operator", "admin", "ADMINISTRATOR", auth.OperatorName} {
			if _, err := s.SignUp(ctx, name, code.Reveal()); !errors.Is(err, auth.ErrInvalid) {
				t.Errorf("signing up as %s: %v", name, err)
			}
		}
		if _, err := s.CreateAccount(ctx, auth.Operator(), auth.OperatorName, auth.Trusted); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("an account with the operator's name: %v", err)
		}
		account := createAccount(t, s, "operator") // one of before
		text, token := createToken(t, s, "operator", "")
		caller, err := s.Authenticate(ctx, text.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.RevokeToken(ctx, caller.Actor(), token.ID); err != nil {
			t.Fatal(err)
		}
		entries, err := s.Audit(ctx, account.Name, 0, 10)
		if err != nil || len(entries) != 3 {
			t.Fatalf("%+v, %v", entries, err)
		}
		for i, want := range []string{"operator", auth.OperatorName, auth.OperatorName} {
			if entries[i].Actor != want {
				t.Errorf("%s was done by %s, want %s", entries[i].Action, entries[i].Actor, want)
			}
		}
	})
}

func TestAPlanThatCannotBeReadHoldsUpItsOwnAccountsOnly(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, db *database.DB) {
		ctx := t.Context()
		createAccount(t, s, "alice")
		createAccount(t, s, "bob")
		hers, _ := createToken(t, s, "alice", "")
		his, _ := createToken(t, s, "bob", "")
		err := errors.Join(s.SetPlan(ctx, auth.Operator(), "damaged", auth.Limits{}), s.SetAccountPlan(ctx, auth.Operator(), "alice", "damaged"))
		if err == nil {
			err = db.Write(ctx, func(tx *gorm.DB) error {
				return tx.Exec(`UPDATE plans SET limits = '{"pins":' WHERE name = 'damaged'`).Error
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Authenticate(ctx, hers.Reveal()); !errors.Is(err, auth.ErrUnreadable) || !strings.Contains(err.Error(), `"damaged"`) {
			t.Errorf("the plan's account: %v", err)
		}
		if _, err := s.Authenticate(ctx, his.Reveal()); err != nil {
			t.Errorf("another account: %v", err)
		}
	})
}

// Whoever has lost the answer rotates again.
func TestRotatingAgainGivesATokenAsGoodAsTheFirst(t *testing.T) {
	clocked(t, func(t *testing.T, s *auth.Service, _ *database.DB, clock *time.Time) {
		ctx := t.Context()
		alice := createAccount(t, s, "alice")
		for _, lifetime := range []time.Duration{0, 90 * 24 * time.Hour} {
			ends := func() (at time.Time) {
				if lifetime > 0 {
					at = clock.Add(lifetime)
				}
				return at
			}
			_, old := mustCreate(t, s, auth.NewToken{Account: alice.ID, Scopes: auth.PinsRead, Expires: ends()})
			rotate := func() (auth.Secret, auth.Token) {
				t.Helper()
				text, token, err := s.RotateToken(ctx, auth.Operator(), old.ID, time.Hour)
				if err != nil {
					t.Fatal(err)
				}
				if !token.Expires.Equal(ends()) {
					t.Errorf("a token for %v ends at %v, want %v", lifetime, token.Expires, ends())
				}
				return text, token
			}
			lost, _ := rotate()
			*clock = clock.Add(time.Minute)
			used, token := rotate()
			s.NoteUse(token.ID)
			if err := s.WriteUses(ctx); err != nil {
				t.Fatal(err)
			}
			*clock = clock.Add(time.Minute)
			last, _ := rotate()
			*clock = clock.Add(2 * time.Hour)
			if _, err := s.Authenticate(ctx, lost.Reveal()); !errors.Is(err, auth.ErrUnauthorized) {
				t.Errorf("the token that nobody has got: %v", err)
			}
			for name, text := range map[string]auth.Secret{"the one that was used": used, "the last": last} {
				if _, err := s.Authenticate(ctx, text.Reveal()); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	})
}

func TestRotationWithoutGraceHoldsOnEveryServer(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, db *database.DB) {
		other := auth.New(db, func() time.Time { return moment }) // another server of this database
		createAccount(t, s, "alice")
		text, token := createToken(t, s, "alice", "laptop")
		if _, err := other.Authenticate(t.Context(), text.Reveal()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.RotateToken(t.Context(), auth.Operator(), token.ID, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Authenticate(t.Context(), text.Reveal()); !errors.Is(err, auth.ErrUnauthorized) {
			t.Errorf("the other server accepts the old token: %v", err)
		}
	})
}

func TestTokensFromBeforeKeepWhatTheyWereMadeFor(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			ctx := t.Context()
			db := databasetest.Open(t, dialect)
			steps := auth.Migrations()
			before := slices.IndexFunc(steps, func(m *gormigrate.Migration) bool { return strings.HasSuffix(m.ID, "_token_lifetime") })
			if err := db.Migrate(ctx, steps[:before]...); err != nil {
				t.Fatal(err)
			}
			now := moment.UnixMilli()
			id := func(letter string) string { return strings.Repeat(letter, 16) }
			insert := func(tx *gorm.DB, letter string, expires any) error {
				return tx.Exec(`INSERT INTO tokens (id, account_id, label, hash, created_ms, expires_ms, scopes) VALUES (?, 7, '', '', ?, ?, 'upload')`,
					id(letter), now, expires).Error
			}
			rotated := func(tx *gorm.DB, from, to string) error {
				return tx.Exec(`INSERT INTO audit (at_ms, actor_token, action, account, subject, detail) VALUES (0, '', 'token.rotate', 'old', ?, ?)`,
					id(from), `{"to":"`+id(to)+`"}`).Error
			}
			err := db.Write(ctx, func(tx *gorm.DB) error {
				return errors.Join(
					tx.Exec(`INSERT INTO accounts (id, name, created_ms) VALUES (7, 'old', 5000)`).Error,
					insert(tx, "a", nil), insert(tx, "b", now+5000),
					insert(tx, "c", now+1000), insert(tx, "d", now+2000), insert(tx, "e", nil), // c was rotated to d, and d to e
					insert(tx, "f", now+1000), rotated(tx, "c", "d"), rotated(tx, "c", "f"), rotated(tx, "d", "e"),
				)
			})
			if err == nil {
				err = db.Migrate(ctx, steps...)
			}
			if err != nil {
				t.Fatal(err)
			}
			s := auth.New(db, func() time.Time { return moment })
			for letter, ends := range map[string]time.Time{"a": {}, "b": moment.Add(5 * time.Second), "c": {}, "d": {}} {
				_, token, err := s.RotateToken(ctx, auth.Operator(), id(letter), time.Hour)
				if err != nil || !token.Expires.Equal(ends) {
					t.Errorf("%s: the new token ends at %v, %v, want %v", letter, token.Expires, err, ends)
				}
			}
		})
	}
}

func TestStateOfAnAccountReachesItsTokens(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, db *database.DB) {
		ctx := t.Context()
		other := auth.New(db, func() time.Time { return moment }) // another server of this database
		account := createAccount(t, s, "alice")
		text, token := createToken(t, s, "alice", "laptop")
		for _, state := range []auth.State{auth.Suspended, auth.Active, auth.Suspended} {
			if _, err := other.Authenticate(ctx, text.Reveal()); err != nil {
				t.Fatal(err)
			}
			if err := s.SetAccountState(ctx, auth.Operator(), "alice", state); err != nil {
				t.Fatal(err)
			}
			for name, server := range map[string]*auth.Service{"this": s, "the other": other} {
				if got, err := server.AccountState(ctx, account.ID); err != nil || got != state {
					t.Errorf("%s server says %q, %v, want %q", name, got, err, state)
				}
				if got, err := server.Authenticate(ctx, text.Reveal()); err != nil || got.State != state {
					t.Errorf("%s server says %q, %v, want %q", name, got.State, err, state)
				}
			}
		}
		if err := s.SetAccountState(ctx, auth.Operator(), "alice", auth.Closed); err != nil {
			t.Fatal(err)
		}
		for _, server := range []*auth.Service{s, other} {
			if _, err := server.Authenticate(ctx, text.Reveal()); !errors.Is(err, auth.ErrUnauthorized) {
				t.Errorf("a token of a closed account: %v", err)
			}
		}
		if err := s.SetAccountState(ctx, auth.Operator(), "alice", auth.Active); !errors.Is(err, auth.ErrClosed) {
			t.Errorf("opening a closed account: %v", err)
		}
		if _, _, err := s.CreateToken(ctx, auth.Operator(), auth.NewToken{Account: account.ID, Scopes: auth.PinsRead}); !errors.Is(err, auth.ErrClosed) {
			t.Errorf("a token for a closed account: %v", err)
		}
		if tokens, err := s.Tokens(ctx, "alice"); err != nil || len(tokens) != 1 || tokens[0].Revoked.IsZero() || tokens[0].ID != token.ID {
			t.Errorf("%+v, %v", tokens, err)
		}
		if err := s.SetAccountState(ctx, auth.Operator(), "nobody", auth.Closed); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("closing nobody: %v", err)
		}
	})
}

func TestClosingLeavesNoTokenThatWasMadeMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		ctx := t.Context()
		account := createAccount(t, s, "alice")
		_, token := createToken(t, s, "alice", "laptop")
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 5 {
					var err error
					if i%2 == 0 {
						_, _, err = s.RotateToken(ctx, auth.Operator(), token.ID, time.Hour)
					} else {
						_, _, err = s.CreateToken(ctx, auth.Operator(), auth.NewToken{Account: account.ID, Scopes: auth.PinsRead})
					}
					if err != nil && !errors.Is(err, auth.ErrClosed) {
						t.Error(err)
					}
				}
			})
		}
		if err := s.SetAccountState(ctx, auth.Operator(), "alice", auth.Closed); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if left, err := s.AccountTokens(ctx, account.ID); err != nil || len(left) != 0 {
			t.Errorf("%d tokens are valid, %v", len(left), err)
		}
	})
}

func TestAccountsAndTokensFromBeforePlansGoOnAsTheyWere(t *testing.T) {
	for _, dialect := range databasetest.Dialects(t) {
		t.Run(dialect, func(t *testing.T) {
			ctx := t.Context()
			db := databasetest.Open(t, dialect)
			steps := auth.Migrations()
			before := slices.IndexFunc(steps, func(m *gormigrate.Migration) bool { return strings.HasSuffix(m.ID, "_plans") })
			if err := db.Migrate(ctx, steps[:before]...); err != nil {
				t.Fatal(err)
			}
			secret := "fp_" + strings.Repeat("a", 16) + "_" + strings.Repeat("b", 52)
			hash := sha256.Sum256([]byte(secret))
			err := db.Write(ctx, func(tx *gorm.DB) error {
				return errors.Join(
					tx.Exec(`INSERT INTO accounts (id, name, created_ms) VALUES (7, 'old', 5000)`).Error,
					tx.Exec(`INSERT INTO tokens (id, account_id, label, hash, created_ms) VALUES (?, 7, '', ?, 6000)`,
						strings.Repeat("a", 16), hex.EncodeToString(hash[:])).Error,
				)
			})
			if err == nil {
				err = db.Migrate(ctx, steps...)
			}
			if err != nil {
				t.Fatal(err)
			}
			s := auth.New(db, time.Now)
			got, err := s.Authenticate(ctx, secret)
			want := auth.Caller{
				Account: 7, Token: strings.Repeat("a", 16), Scopes: auth.OwnScopes, State: auth.Active, Plan: auth.Trusted, Limits: &auth.Limits{},
			}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if a, err := s.Account(ctx, 7); err != nil || !a.Since.Equal(a.Created) {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
}

func TestPublicGetsAGracePeriodAndKeepsWhatTheOperatorHasSet(t *testing.T) {
	all := auth.Migrations()
	grace := slices.IndexFunc(all, func(m *gormigrate.Migration) bool { return m.ID == "20261129_40_grace" })
	databasetest.Each(t, all[:grace], func(t *testing.T, db *database.DB) {
		s := auth.New(db, time.Now)
		before := auth.Limits{Bytes: 1<<60 + 1, Prices: map[string]string{"hot_gib_month": "0.02"}}
		text, err := json.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Write(t.Context(), func(tx *gorm.DB) error {
			return tx.Exec(`UPDATE plans SET limits = ? WHERE name = ?`, string(text), auth.Public).Error
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Migrate(t.Context(), all...); err != nil {
			t.Fatal(err)
		}
		plans, err := s.Plans(t.Context())
		if err != nil || len(plans) != 2 {
			t.Fatalf("%+v, %v", plans, err)
		}
		public, trusted := plans[0].Limits, plans[1].Limits
		if public.GraceDays != 30 || public.Grace() != 30*24*time.Hour || trusted.GraceDays != 0 {
			t.Errorf("public has %d days, trusted %d", public.GraceDays, trusted.GraceDays)
		}
		public.GraceDays = 0
		if diff := cmp.Diff(before, public); diff != "" {
			t.Errorf("what was set has changed: %s", diff)
		}
	})
}

func TestPlanOfAnAccountComesWithTheCaller(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, db *database.DB) {
		ctx := t.Context()
		if _, err := s.CreateAccount(ctx, auth.Operator(), "bob", "nothing"); !errors.Is(err, auth.ErrNoPlan) {
			t.Errorf("an account without a plan: %v", err)
		}
		createAccount(t, s, "alice")
		text, _ := createToken(t, s, "alice", "laptop")
		limits := auth.Limits{Pins: 7, Rates: map[auth.Kind]auth.Rate{auth.KindWrite: {PerSecond: 0.5, Burst: 3}}}
		if err := s.SetPlan(ctx, auth.Operator(), "small", limits); err != nil {
			t.Fatal(err)
		}
		if err := s.SetAccountPlan(ctx, auth.Operator(), "alice", "small"); err != nil {
			t.Fatal(err)
		}
		check := func(want auth.Limits) {
			t.Helper()
			got, err := auth.New(db, time.Now).Authenticate(ctx, text.Reveal())
			if err != nil || got.Plan != "small" {
				t.Fatalf("%+v, %v", got, err)
			}
			if diff := cmp.Diff(want, *got.Limits); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		check(limits)
		if err := s.SetPlan(ctx, auth.Operator(), "small", auth.Limits{Bytes: 9}); err != nil {
			t.Fatal(err)
		}
		check(auth.Limits{Bytes: 9})
		if err := s.SetAccountPlan(ctx, auth.Operator(), "alice", "nothing"); !errors.Is(err, auth.ErrNoPlan) {
			t.Errorf("a plan that is not there: %v", err)
		}
		for name, bad := range map[string]auth.Limits{
			"negative": {Pins: -1},
			"kind":     {Rates: map[auth.Kind]auth.Rate{"x": {PerSecond: 1, Burst: 1}}},
			"standing": {Rates: map[auth.Kind]auth.Rate{auth.KindList: {Burst: 1}}},
			"no burst": {Rates: map[auth.Kind]auth.Rate{auth.KindList: {PerSecond: 1}}},
		} {
			if err := s.SetPlan(ctx, auth.Operator(), "small", bad); !errors.Is(err, auth.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		check(auth.Limits{Bytes: 9})
		plans, err := s.Plans(ctx)
		if err != nil || len(plans) != 3 || plans[0].Name != auth.Public || plans[1].Name != "small" || plans[2].Name != auth.Trusted {
			t.Errorf("%+v, %v", plans, err)
		}
		if trusted, err := s.Plan(ctx, auth.Trusted); err != nil || len(trusted.Limits.Rates) != 0 {
			t.Errorf("%+v, %v", trusted, err)
		}
	})
}

func TestInviteCodeMakesAsManyAccountsAsItSays(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		ctx := t.Context()
		code, invite, err := s.CreateInvite(ctx, auth.Operator(), auth.Invite{Label: "meeting", Plan: auth.Public, Left: 3})
		if err != nil {
			t.Fatal(err)
		}
		var mutex sync.Mutex
		var made []auth.Registration
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				r, err := s.SignUp(ctx, fmt.Sprintf("guest-%d", i), code.Reveal())
				if err != nil && !errors.Is(err, auth.ErrNoInvite) {
					t.Error(err)
				}
				mutex.Lock()
				defer mutex.Unlock()
				if err == nil {
					made = append(made, r)
				}
			})
		}
		wg.Wait()
		if len(made) != 3 {
			t.Fatalf("%d accounts", len(made))
		}
		for _, r := range made {
			got, err := s.Authenticate(ctx, r.Text.Reveal())
			if err != nil || got.Account != r.Account.ID || got.Plan != auth.Public || got.Scopes != auth.OwnScopes {
				t.Errorf("%+v, %v", got, err)
			}
		}
		left, err := s.Invites(ctx)
		invite.Left = 0
		if diff := cmp.Diff([]auth.Invite{invite}, left); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

func TestInviteCodesThatAreNotValidAreOneAnswer(t *testing.T) {
	clocked(t, func(t *testing.T, s *auth.Service, _ *database.DB, clock *time.Time) {
		ctx := t.Context()
		invite := func(i auth.Invite) (auth.Secret, auth.Invite) {
			t.Helper()
			i.Plan, i.Left = auth.Public, 1
			code, made, err := s.CreateInvite(ctx, auth.Operator(), i)
			if err != nil {
				t.Fatal(err)
			}
			return code, made
		}
		used, _ := invite(auth.Invite{})
		expired, _ := invite(auth.Invite{Expires: moment.Add(time.Hour)})
		revoked, gone := invite(auth.Invite{})
		good, _ := invite(auth.Invite{})
		if _, err := s.SignUp(ctx, "alice", used.Reveal()); err != nil {
			t.Fatal(err)
		}
		if err := s.RevokeInvite(ctx, auth.Operator(), gone.ID); err != nil {
			t.Fatal(err)
		}
		if err := s.RevokeInvite(ctx, auth.Operator(), "nothing"); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("revoking nothing: %v", err)
		}
		*clock = moment.Add(time.Hour)
		var texts []string
		for _, code := range []string{used.Reveal(), expired.Reveal(), revoked.Reveal(), "", gone.ID, good.Reveal() + "a", strings.ToUpper(good.Reveal())} {
			for _, name := range []string{"bob", "alice", "not a name"} { // who has no code learns nothing of names
				_, err := s.SignUp(ctx, name, code)
				if !errors.Is(err, auth.ErrNoInvite) {
					t.Errorf("%s: %v", name, err)
				}
				texts = append(texts, err.Error())
			}
		}
		for _, text := range texts {
			if text != texts[0] {
				t.Errorf("%q and %q", texts[0], text)
			}
		}
		// What fails for its name leaves the code as it was.
		if _, err := s.SignUp(ctx, "alice", good.Reveal()); !errors.Is(err, auth.ErrExists) {
			t.Errorf("a name that is taken: %v", err)
		}
		if _, err := s.SignUp(ctx, "not a name", good.Reveal()); !errors.Is(err, auth.ErrInvalid) {
			t.Errorf("a name that is none: %v", err)
		}
		if _, err := s.SignUp(ctx, "bob", good.Reveal()); err != nil {
			t.Error(err)
		}
		for name, bad := range map[string]auth.Invite{
			"no use": {Plan: auth.Public}, "too many": {Plan: auth.Public, Left: 1e6},
			"too late": {Plan: auth.Public, Left: 1, Expires: *clock}, "label": {Plan: auth.Public, Left: 1, Label: "\n"},
		} {
			if _, _, err := s.CreateInvite(ctx, auth.Operator(), bad); !errors.Is(err, auth.ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, _, err := s.CreateInvite(ctx, auth.Operator(), auth.Invite{Plan: "nothing", Left: 1}); !errors.Is(err, auth.ErrNoPlan) {
			t.Errorf("a plan that is not there: %v", err)
		}
	})
}

func TestEveryChangeIsInTheAuditAndNoSecretIs(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, db *database.DB) {
		ctx := t.Context()
		op := auth.Operator()
		alice := createAccount(t, s, "alice")
		first, token := mustCreate(t, s, auth.NewToken{Account: alice.ID, Scopes: auth.OwnScopes, Label: "laptop"})
		self := auth.Actor{Account: alice.ID, Token: token.ID, Scopes: auth.OwnScopes}
		second, next, err := s.RotateToken(ctx, self, token.ID, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		code, invite, err := s.CreateInvite(ctx, op, auth.Invite{Plan: auth.Public, Left: 1})
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.SignUp(ctx, "bob", code.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			s.RevokeToken(ctx, self, next.ID),
			s.RevokeInvite(ctx, op, invite.ID),
			s.SetPlan(ctx, op, "small", auth.Limits{Pins: 1}),
			s.SetAccountPlan(ctx, op, "bob", "small"),
			s.SetAccountPolicy(ctx, op, "bob", "archive"),
			s.SetAccountState(ctx, op, "bob", auth.Closed),
			s.SetAccountState(ctx, op, "bob", auth.Closed), // changes nothing
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		entries, err := s.Audit(ctx, "", 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, strings.Join([]string{e.Actor, e.Token, e.Action, e.Account, e.Subject}, " "))
			if !e.At.Equal(moment) || !json.Valid(e.Detail) {
				t.Errorf("%+v", e)
			}
		}
		want := []string{
			"(operator)  account.state bob bob",
			"(operator)  account.policy bob bob",
			"(operator)  account.plan bob bob",
			"(operator)  plan.set  small",
			"(operator)  invite.revoke  " + invite.ID,
			"alice " + token.ID + " token.revoke alice " + next.ID,
			"bob  account.signup bob bob",
			"(operator)  invite.create  " + invite.ID,
			"alice " + token.ID + " token.rotate alice " + token.ID,
			"(operator)  token.create alice " + token.ID,
			"(operator)  account.create alice alice",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		page, err := s.Audit(ctx, "bob", entries[0].ID, 2)
		if err != nil || len(page) != 2 || page[0].Action != "account.policy" || page[1].Action != "account.plan" {
			t.Errorf("%+v, %v", page, err)
		}
		for _, table := range []string{"audit", "tokens", "invites"} {
			var rows []map[string]any
			if err := db.Read(ctx, func(tx *gorm.DB) error { return tx.Table(table).Find(&rows).Error }); err != nil {
				t.Fatal(err)
			}
			for _, secret := range []auth.Secret{first, second, code, r.Text} {
				if stored := fmt.Sprint(rows); strings.Contains(stored, secret.Reveal()[21:]) {
					t.Errorf("table %s holds a secret", table)
				}
			}
		}
		for _, change := range []string{"UPDATE audit SET action = 'x'", "DELETE FROM audit"} {
			if err := db.Write(ctx, func(tx *gorm.DB) error { return tx.Exec(change).Error }); err == nil {
				t.Errorf("%s went through", change)
			}
		}
	})
}

func TestLastUseIsWrittenDownOnceAMinute(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), auth.Migrations()...); err != nil {
		t.Fatal(err)
	}
	s := auth.New(db, func() time.Time { return moment })
	createAccount(t, s, "alice")
	text, _ := createToken(t, s, "alice", "laptop")
	createToken(t, s, "alice", "phone")
	used := func() (at []time.Time) {
		t.Helper()
		tokens, err := s.Tokens(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range tokens {
			at = append(at, token.Used)
		}
		return at
	}
	other := text.Reveal()[:len(text)-2] + "aa"
	for _, presented := range []string{text.Reveal(), text.Reveal(), other} {
		_, _ = s.Authenticate(t.Context(), presented)
	}
	if at := used(); !at[0].IsZero() || !at[1].IsZero() {
		t.Errorf("a request wrote %v", at)
	}
	if err := s.WriteUses(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := used()
	slices.SortFunc(at, time.Time.Compare)
	if !at[0].IsZero() || !at[1].Equal(moment) {
		t.Errorf("written down: %v", at)
	}
}

func TestRunWritesEachMinuteAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := &failing{err: errors.New("away")}
		s := auth.New(db, time.Now)
		s.NoteUse("a")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Run(ctx)
		}()
		<-time.After(3*time.Minute + time.Second)
		synctest.Wait()
		if db.writes != 3 {
			t.Errorf("%d writes in three minutes", db.writes)
		}
		db.err = nil
		cancel()
		<-ended
		if db.writes != 4 {
			t.Errorf("%d writes with the last", db.writes)
		}
	})
}

// failing is a database of which only the writes are counted.
type failing struct {
	auth.DB
	err    error
	writes int
}

func (f *failing) Write(context.Context, func(*gorm.DB) error) error {
	f.writes++
	return f.err
}

func TestExpiredTokensKeepNoOthersFromBeingMade(t *testing.T) {
	clocked(t, func(t *testing.T, s *auth.Service, db *database.DB, clock *time.Time) {
		alice := createAccount(t, s, "alice")
		add := func(name string, expires time.Time) {
			t.Helper()
			addThousand(t, db, alice, name, expires)
		}
		one := auth.NewToken{Account: alice.ID, Scopes: auth.PinsRead, Expires: moment.Add(24 * time.Hour)}
		add("first", moment.Add(time.Hour))
		if _, _, err := s.CreateToken(t.Context(), auth.Operator(), one); !errors.Is(err, auth.ErrTooMany) {
			t.Errorf("beside a thousand: %v", err)
		}
		*clock = moment.Add(time.Hour)
		_, token := mustCreate(t, s, one)
		if _, _, err := s.RotateToken(t.Context(), auth.Operator(), token.ID, 0); err != nil {
			t.Error(err)
		}
		add("second", moment.Add(2*time.Hour))
		*clock = moment.Add(2 * time.Hour)
		mustCreate(t, s, one)

		// However many have expired, the account is shown the last thousand, and all that are valid.
		list, err := s.AccountTokens(t.Context(), alice.ID)
		expired := map[string]int{}
		for _, token := range list {
			if !token.Expires.After(*clock) {
				expired[token.Label]++
			}
		}
		if len(list) != 1002 || expired["second"] != 1000 || err != nil {
			t.Errorf("%d tokens, of which have expired %v: %v", len(list), expired, err)
		}
	})
}

// The audit keeps each for good. Who has to replace a thousand that leaked can do so at once, when they are a day old.
func TestAnAccountMakesAThousandTokensADay(t *testing.T) {
	clocked(t, func(t *testing.T, s *auth.Service, db *database.DB, clock *time.Time) {
		alice := createAccount(t, s, "alice")
		addThousand(t, db, alice, "some", moment.Add(time.Hour))
		self := auth.Actor{Account: alice.ID, Scopes: auth.AllScopes}
		one := auth.NewToken{Account: alice.ID, Scopes: auth.PinsRead}
		*clock = moment.Add(23 * time.Hour)
		if _, _, err := s.CreateToken(t.Context(), self, one); !errors.Is(err, auth.ErrTooOften) {
			t.Errorf("within a day: %v", err)
		}
		_, token := mustCreate(t, s, one) // by the operator
		if _, _, err := s.RotateToken(t.Context(), self, token.ID, 0); !errors.Is(err, auth.ErrTooOften) {
			t.Errorf("rotated within a day: %v", err)
		}
		*clock = moment.Add(25 * time.Hour)
		if _, _, err := s.CreateToken(t.Context(), self, one); err != nil {
			t.Errorf("after a day: %v", err)
		}
	})
}

// addThousand makes tokens of an account at the moment, as nobody waits for.
func addThousand(t *testing.T, db *database.DB, owner auth.Account, name string, expires time.Time) {
	t.Helper()
	rows := make([]map[string]any, 1000)
	for i := range rows {
		rows[i] = map[string]any{
			"id": fmt.Sprint(name, i), "account_id": owner.ID, "label": name, "policy": "", "scopes": "pins:read", "hash": "",
			"created_ms": moment.UnixMilli(), "expires_ms": expires.UnixMilli(),
		}
	}
	err := db.Write(t.Context(), func(tx *gorm.DB) error { return tx.Table("tokens").CreateInBatches(rows, 500).Error })
	if err != nil {
		t.Fatal(err)
	}
}
