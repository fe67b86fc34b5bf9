package auth_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// moment is a time that milliseconds can hold.
var moment = time.Date(2026, 11, 22, 12, 0, 0, 123_000_000, time.UTC)

func each(t *testing.T, fn func(t *testing.T, s *auth.Service, db *database.DB)) {
	databasetest.Each(t, auth.Migrations(), func(t *testing.T, db *database.DB) {
		fn(t, auth.New(db, func() time.Time { return moment }), db)
	})
}

func createAccount(t *testing.T, s *auth.Service, name string) auth.Account {
	t.Helper()
	account, err := s.CreateAccount(t.Context(), auth.Operator(), name, auth.Trusted)
	if err != nil {
		t.Fatal(err)
	}
	return account
}

func createToken(t *testing.T, s *auth.Service, account, label string) (auth.Secret, auth.Token) {
	t.Helper()
	owner, err := s.AccountByName(t.Context(), account)
	if err != nil {
		t.Fatal(err)
	}
	return mustCreate(t, s, auth.NewToken{Account: owner.ID, Label: label, Scopes: auth.OwnScopes})
}

func mustCreate(t *testing.T, s *auth.Service, want auth.NewToken) (auth.Secret, auth.Token) {
	t.Helper()
	text, token, err := s.CreateToken(t.Context(), auth.Operator(), want)
	if err != nil {
		t.Fatal(err)
	}
	return text, token
}

func TestTokenGivesAccessToItsAccountOnly(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		for _, name := range []string{"alice", "bob"} {
			account := createAccount(t, s, name)
			for _, label := range []string{"laptop", "phone"} {
				text, _ := createToken(t, s, name, label)
				got, err := s.Authenticate(t.Context(), text.Reveal())
				if err != nil || got.Account != account.ID {
					t.Errorf("%s's %s: got %+v, %v, want %d", name, label, got, err, account.ID)
				}
			}
		}
	})
}

func TestTokenTextIsOneRecognisableWord(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		createAccount(t, s, "alice")
		text, token := createToken(t, s, "alice", "")
		form := regexp.MustCompile(`^fp_([a-z2-7]{16})_[a-z2-7]{52}$`)
		match := form.FindStringSubmatch(text.Reveal())
		if match == nil || match[1] != token.ID {
			t.Errorf("a token of %d characters with id %q has another form than %v", len(text), token.ID, form)
		}
		other, _ := createToken(t, s, "alice", "")
		if other == text {
			t.Error("two tokens are the same")
		}
	})
}

func TestOnlyTheExactTextIsAccepted(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		createAccount(t, s, "alice")
		text, token := createToken(t, s, "alice", "")
		good := text.Reveal()
		other := "a"
		if strings.HasSuffix(good, "a") {
			other = "b"
		}
		for name, presented := range map[string]string{
			"nothing":       "",
			"id":            token.ID,
			"upper case":    strings.ToUpper(good),
			"shorter":       good[:len(good)-1],
			"longer":        good + "a",
			"last changed":  good[:len(good)-1] + other,
			"unknown id":    "fp_" + strings.Repeat("a", 16) + good[19:],
			"other prefix":  "pf_" + good[3:],
			"space":         " " + good,
			"line":          good + "\n",
			"hash of it":    "fp_" + token.ID + "_" + strings.Repeat("0", 52),
			"SQL":           "fp_" + strings.Repeat("'", 16) + good[19:],
			"not UTF-8":     strings.Repeat("\xff", len(good)),
			"two tokens":    good + "," + good,
			"bearer prefix": "Bearer " + good,
		} {
			if _, err := s.Authenticate(t.Context(), presented); !errors.Is(err, auth.ErrUnauthorized) {
				t.Errorf("%s: got %v, want %v", name, err, auth.ErrUnauthorized)
			}
		}
	})
}

func TestRevokedTokenIsRefusedAtOnceAndForEver(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		createAccount(t, s, "alice")
		lost, lostToken := createToken(t, s, "alice", "lost phone")
		kept, _ := createToken(t, s, "alice", "laptop")
		for _, id := range []string{lostToken.ID, "fp_" + lostToken.ID, lost.Reveal()} { // each again
			if err := s.RevokeToken(t.Context(), auth.Operator(), id); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Authenticate(t.Context(), lost.Reveal()); !errors.Is(err, auth.ErrUnauthorized) {
				t.Errorf("a revoked token: %v", err)
			}
		}
		if _, err := s.Authenticate(t.Context(), kept.Reveal()); err != nil {
			t.Errorf("the other token of the account: %v", err)
		}
		if err := s.RevokeToken(t.Context(), auth.Operator(), "unknown"); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("revoking an unknown token: %v", err)
		}
	})
}

func TestTokensListsWhatWasCreatedWithoutItsText(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		createAccount(t, s, "alice")
		createAccount(t, s, "bob")
		_, laptop := createToken(t, s, "alice", "laptop")
		_, phone := createToken(t, s, "bob", "phone")
		if err := s.RevokeToken(t.Context(), auth.Operator(), phone.ID); err != nil {
			t.Fatal(err)
		}
		phone.Revoked = moment
		for account, want := range map[string][]auth.Token{"alice": {laptop}, "bob": {phone}} {
			got, err := s.Tokens(t.Context(), account)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		}
		if all, err := s.Tokens(t.Context(), ""); err != nil || len(all) != 2 {
			t.Errorf("got %d tokens, %v", len(all), err)
		}
		if _, err := s.Tokens(t.Context(), "carol"); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("tokens of nobody: %v", err)
		}
	})
}

func TestTokenTextIsStoredNowhere(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, db *database.DB) {
		createAccount(t, s, "alice")
		text, _ := createToken(t, s, "alice", "laptop")
		secret := text.Reveal()[20:]
		var rows []map[string]any
		if err := db.Read(t.Context(), func(tx *gorm.DB) error { return tx.Table("tokens").Find(&rows).Error }); err != nil {
			t.Fatal(err)
		}
		if stored := fmt.Sprint(rows); len(rows) != 1 || strings.Contains(stored, secret) {
			t.Error("the row of a token holds its secret")
		}
	})
}

func TestAccountNamesAreUniqueAndPlain(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		for _, name := range []string{"alice", "a", "team-1.eu", "bob@example.org", strings.Repeat("x", 64)} {
			account := createAccount(t, s, name)
			found, err := s.AccountByName(t.Context(), name)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(account, found); diff != "" {
				t.Error(diff)
			}
		}
		if _, err := s.CreateAccount(t.Context(), auth.Operator(), "alice", auth.Trusted); !errors.Is(err, auth.ErrExists) {
			t.Errorf("the same name again: %v", err)
		}
		for _, name := range []string{"", "-a", "a b", "a\n", "é", "a/b", strings.Repeat("x", 65)} {
			if _, err := s.CreateAccount(t.Context(), auth.Operator(), name, auth.Trusted); !errors.Is(err, auth.ErrInvalid) {
				t.Errorf("%q: got %v, want %v", name, err, auth.ErrInvalid)
			}
		}
		if accounts, err := s.Accounts(t.Context()); err != nil || len(accounts) != 5 {
			t.Errorf("%d accounts, %v", len(accounts), err)
		}
		if _, err := s.AccountByName(t.Context(), "nobody"); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("an unknown account: %v", err)
		}
	})
}

func TestLabelsAreOnePrintableLine(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		alice := createAccount(t, s, "alice")
		createToken(t, s, "alice", "Büro 🖥 "+strings.Repeat("é", 90))
		for _, label := range []string{"two\nlines", "\x1b[31m", "\xff", strings.Repeat("x", 101)} {
			if _, _, err := s.CreateToken(t.Context(), auth.Operator(), auth.NewToken{Account: alice.ID, Label: label, Scopes: auth.OwnScopes}); !errors.Is(err, auth.ErrInvalid) {
				t.Errorf("%q: got %v, want %v", label, err, auth.ErrInvalid)
			}
		}
		if _, _, err := s.CreateToken(t.Context(), auth.Operator(), auth.NewToken{Account: alice.ID + 1, Scopes: auth.OwnScopes}); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("a token for nobody: %v", err)
		}
	})
}

func TestBootstrapHappensOnceWhoeverStartsFirst(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		var mutex sync.Mutex
		var texts []auth.Secret
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				text, created, err := s.Bootstrap(t.Context())
				if err != nil || created != (text != "") {
					t.Errorf("created %v, %v", created, err)
				}
				mutex.Lock()
				defer mutex.Unlock()
				if created {
					texts = append(texts, text)
				}
			})
		}
		wg.Wait()
		if len(texts) != 1 {
			t.Fatalf("%d first tokens", len(texts))
		}
		account, err := s.AccountByName(t.Context(), auth.FirstAccount)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Authenticate(t.Context(), texts[0].Reveal()); err != nil || got.Account != account.ID {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

func TestBootstrapLeavesADatabaseWithAccountsAlone(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		createAccount(t, s, "alice")
		if _, created, err := s.Bootstrap(t.Context()); created || err != nil {
			t.Errorf("created %v, %v", created, err)
		}
	})
}

func TestDatabaseFailureIsNotAWrongToken(t *testing.T) {
	db := databasetest.Open(t)
	if err := db.Migrate(t.Context(), auth.Migrations()...); err != nil {
		t.Fatal(err)
	}
	s := auth.New(db, time.Now)
	text, _, err := s.Bootstrap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = s.Authenticate(t.Context(), text.Reveal())
	if errors.Is(err, auth.ErrUnauthorized) || !errors.Is(err, database.ErrClosed) {
		t.Errorf("got %v: a client must not throw its token away for this", err)
	}
}

func TestSecretNeverPrintsItself(t *testing.T) {
	const text = "hunter2hunter2"
	holder := struct {
		Secret auth.Secret
		List   []auth.Secret
	}{text, []auth.Secret{text}}
	var printed strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&printed, verb+" "+verb+"\n", auth.Secret(text), holder)
	}
	document, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	printed.Write(document)
	slog.New(slog.NewJSONHandler(&printed, nil)).Info("x", "secret", auth.Secret(text), "holder", holder)
	slog.New(slog.NewTextHandler(&printed, nil)).Info("x", "secret", auth.Secret(text), "holder", holder)
	fmt.Fprint(&printed, errors.Join(fmt.Errorf("with %s", auth.Secret(text))))
	if strings.Contains(printed.String(), text) || strings.Contains(printed.String(), fmt.Sprintf("%x", text)) {
		t.Errorf("a secret was printed: %s", printed.String())
	}
	if auth.Secret(text).Reveal() != text || auth.Secret("").String() != "" {
		t.Error("Reveal or the empty secret is wrong")
	}
}

func FuzzAuthenticate(f *testing.F) {
	db := databasetest.Open(f)
	if err := db.Migrate(f.Context(), auth.Migrations()...); err != nil {
		f.Fatal(err)
	}
	s := auth.New(db, time.Now)
	text, _, err := s.Bootstrap(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	good := text.Reveal()
	for _, seed := range []string{
		"", "fp_", "fp__", good[:19] + "_" + strings.Repeat("a", 52), good[:30], good + "\x00",
		"fp_' OR 1=1 --" + strings.Repeat("a", 58), strings.Repeat("fp_", 24),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, presented string) {
		if _, err := s.Authenticate(t.Context(), presented); !errors.Is(err, auth.ErrUnauthorized) && presented != good {
			t.Errorf("%q: got %v, want %v", presented, err, auth.ErrUnauthorized)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	db := databasetest.Open(b)
	if err := db.Migrate(b.Context(), auth.Migrations()...); err != nil {
		b.Fatal(err)
	}
	s := auth.New(db, time.Now)
	text, _, err := s.Bootstrap(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Authenticate(b.Context(), text.Reveal()); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCallerComesWithPolicies(t *testing.T) {
	each(t, func(t *testing.T, s *auth.Service, _ *database.DB) {
		ctx := t.Context()
		account := createAccount(t, s, "alice")
		plain, laptop := createToken(t, s, "alice", "laptop")
		text, token := mustCreate(t, s, auth.NewToken{Account: account.ID, Label: "phone", Policy: "small", Scopes: auth.PinsRead})
		if err := s.SetAccountPolicy(ctx, auth.Operator(), "alice", "archive"); err != nil {
			t.Fatal(err)
		}
		for secret, want := range map[auth.Secret]auth.Caller{
			plain: {Account: account.ID, AccountPolicy: "archive", Token: laptop.ID, Scopes: auth.OwnScopes, State: auth.Active, Plan: auth.Trusted, Limits: &auth.Limits{}},
			text: {
				Account: account.ID, AccountPolicy: "archive", TokenPolicy: "small",
				Token: token.ID, Scopes: auth.PinsRead, State: auth.Active, Plan: auth.Trusted, Limits: &auth.Limits{},
			},
		} {
			got, err := s.Authenticate(ctx, secret.Reveal())
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		}
		if found, err := s.AccountByName(ctx, "alice"); err != nil || found.Policy != "archive" {
			t.Errorf("%+v, %v", found, err)
		}
		if err := s.SetAccountPolicy(ctx, auth.Operator(), "nobody", "archive"); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("got %v, want %v", err, auth.ErrNotFound)
		}
		uses := func(policy string, want auth.PolicyUse) {
			t.Helper()
			if got, err := s.PolicyUses(ctx, policy); err != nil || got != want {
				t.Errorf("%s: got %+v, %v, want %+v", policy, got, err, want)
			}
		}
		uses("archive", auth.PolicyUse{Accounts: 1})
		uses("small", auth.PolicyUse{Tokens: 1})
		uses("nothing", auth.PolicyUse{})
		if err := s.RevokeToken(ctx, auth.Operator(), token.ID); err != nil {
			t.Fatal(err)
		}
		uses("small", auth.PolicyUse{})
	})
}

func TestNamesThatNoAccountCanHaveAreUnknown(t *testing.T) {
	databasetest.Each(t, auth.Migrations(), func(t *testing.T, db *database.DB) {
		s := auth.New(db, func() time.Time { return moment })
		reader := auth.Actor{Account: createAccount(t, s, "boss").ID, Token: "abc", Scopes: auth.Admin}
		for _, name := range []string{"a\x00b", "\xff", "a\xc3", "a\nb", strings.Repeat("a", 100_000)} {
			_, readErr := s.ReadAccount(t.Context(), reader, name)
			_, byNameErr := s.AccountByName(t.Context(), name)
			_, tokensErr := s.Tokens(t.Context(), name)
			for what, err := range map[string]error{
				"ReadAccount": readErr, "AccountByName": byNameErr, "Tokens": tokensErr,
				"SetAccountPlan":  s.SetAccountPlan(t.Context(), auth.Operator(), name, auth.Trusted),
				"SetAccountState": s.SetAccountState(t.Context(), auth.Operator(), name, auth.Suspended),
			} {
				if !errors.Is(err, auth.ErrNotFound) {
					t.Errorf("%s of %.20q: %v, want ErrNotFound", what, name, err)
				}
			}
			if found, err := s.SearchAccounts(t.Context(), name, 0, 10); len(found) > 0 || err != nil {
				t.Errorf("a search for %.20q finds %v, %v", name, found, err)
			}
		}
	})
}

func TestReadingAnAccountIsInTheAuditBeforeItBegins(t *testing.T) {
	databasetest.Each(t, auth.Migrations(), func(t *testing.T, db *database.DB) {
		now := moment
		s := auth.New(db, func() time.Time { return now })
		ann := createAccount(t, s, "ann")
		reader := auth.Actor{Account: createAccount(t, s, "boss").ID, Token: "abc", Scopes: auth.Admin}
		if err := s.SetAccountState(t.Context(), auth.Operator(), "ann", auth.Closed); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadAccount(t.Context(), auth.Actor{Account: reader.Account, Scopes: auth.OwnScopes}, "ann"); !errors.Is(err, auth.ErrScope) {
			t.Errorf("without the scope: %v", err)
		}
		if _, err := s.ReadAccount(t.Context(), reader, "nobody"); !errors.Is(err, auth.ErrNotFound) {
			t.Errorf("an account that is not there: %v", err)
		}
		for i, after := range []time.Duration{0, time.Minute, 59 * time.Minute, time.Minute} { // the third is an hour after the first
			now = now.Add(after)
			if id, err := s.ReadAccount(t.Context(), reader, "ann"); err != nil || id != ann.ID {
				t.Fatalf("%d: account %d, %v; want %d", i, id, err, ann.ID)
			}
			entries, err := s.Audit(t.Context(), "ann", 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			reads := 0
			for _, e := range entries {
				if e.Action == "account.read" {
					reads++
					if e.Actor != "boss" || e.Token != "abc" || e.Account != "ann" {
						t.Errorf("the audit has %+v", e)
					}
				}
			}
			if want := 1 + i/2; reads != want {
				t.Errorf("%d: %d entries, want %d", i, reads, want)
			}
		}
	})
}
