package auth

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"strings"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// A DB runs transactions. Write returns nil only after a durable commit; both may run fn more than once.
type DB interface {
	Read(ctx context.Context, fn func(tx *gorm.DB) error) error
	Write(ctx context.Context, fn func(tx *gorm.DB) error) error
}

type accountRow struct {
	ID        int64 `gorm:"primaryKey"`
	Name      string
	Policy    string
	Plan      string
	State     State
	StateMS   int64 `gorm:"column:state_ms"`
	CreatedMS int64 `gorm:"column:created_ms"`
}

func (accountRow) TableName() string { return "accounts" }

func (r accountRow) account() Account {
	return Account{
		ID: r.ID, Name: r.Name, Policy: r.Policy, Plan: r.Plan, State: r.State,
		Since: time.UnixMilli(r.StateMS).UTC(), Created: time.UnixMilli(r.CreatedMS).UTC(),
	}
}

type tokenRow struct {
	ID        string `gorm:"primaryKey"`
	AccountID int64
	Label     string
	Policy    string
	Scopes    string
	Hash      string
	CreatedMS int64         `gorm:"column:created_ms"`
	ExpiresMS sql.NullInt64 `gorm:"column:expires_ms"`
	UsedMS    sql.NullInt64 `gorm:"column:used_ms"`
	RevokedMS sql.NullInt64 `gorm:"column:revoked_ms"`

	LifetimeMS sql.NullInt64 `gorm:"column:lifetime_ms"` // that it was made for; rotation moves its end, and not this
	Successor  string        // the id of the token that it was last rotated to
}

func (tokenRow) TableName() string { return "tokens" }

func (r tokenRow) token(account string) (Token, error) {
	scopes, err := ParseScopes(strings.Fields(r.Scopes))
	return Token{
		ID: r.ID, Account: account, Label: r.Label, Policy: r.Policy, Scopes: scopes, Created: time.UnixMilli(r.CreatedMS).UTC(),
		Expires: fromMS(r.ExpiresMS), Used: fromMS(r.UsedMS), Revoked: fromMS(r.RevokedMS),
	}, err
}

// fromMS and toMS store the zero time as NULL.
func fromMS(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}

func toMS(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: !t.IsZero()}
}

func (s *Service) insertAccount(ctx context.Context, by Actor, name, plan string) (account Account, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		account = Account{Name: name, Plan: plan}
		return openAccount(tx, by, actionAccountCreate, &account, s.now(), nil)
	})
	return account, named(err)
}

// openAccount inserts an account, of which only name and plan are known. An actor who is nobody yet is the account.
func openAccount(tx *gorm.DB, by Actor, action string, account *Account, now time.Time, detail map[string]any) error {
	if _, err := planNamed(tx, account.Plan); err != nil {
		return err
	}
	row := accountRow{Name: account.Name, Plan: account.Plan, State: Active, StateMS: now.UnixMilli(), CreatedMS: now.UnixMilli()}
	if err := tx.Create(&row).Error; err != nil {
		return err
	}
	*account = row.account()
	if by == (Actor{}) {
		by.Account = account.ID
	}
	all := map[string]any{"plan": account.Plan}
	maps.Copy(all, detail)
	return record(tx, now, by, action, account.Name, account.Name, all)
}

func (s *Service) selectAccounts(ctx context.Context) ([]Account, error) {
	return s.findAccounts(ctx, func(tx *gorm.DB) *gorm.DB { return tx })
}

// likeEscaped makes of a text one that LIKE finds as it is.
var likeEscaped = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

func (s *Service) selectAccountsLike(ctx context.Context, part string, after int64, limit int) ([]Account, error) {
	return s.findAccounts(ctx, func(tx *gorm.DB) *gorm.DB {
		if part != "" {
			tx = tx.Where(`lower(name) LIKE ? ESCAPE '\'`, "%"+likeEscaped.Replace(strings.ToLower(part))+"%")
		}
		return tx.Where("id > ?", after).Limit(limit)
	})
}

func (s *Service) selectClosed(ctx context.Context, before time.Time, after int64, limit int) ([]Account, error) {
	return s.findAccounts(ctx, func(tx *gorm.DB) *gorm.DB {
		return tx.Where("state = ? AND state_ms < ? AND id > ?", Closed, before.UnixMilli(), after).Limit(limit)
	})
}

func (s *Service) findAccounts(ctx context.Context, where func(tx *gorm.DB) *gorm.DB) ([]Account, error) {
	var rows []accountRow
	err := s.db.Read(ctx, func(tx *gorm.DB) error { return where(tx).Order("id").Find(&rows).Error })
	accounts := make([]Account, len(rows))
	for i, row := range rows {
		accounts[i] = row.account()
	}
	return accounts, err
}

func (s *Service) selectAccount(ctx context.Context, name string) (Account, error) {
	var row accountRow
	err := s.db.Read(ctx, func(tx *gorm.DB) (err error) {
		row, err = accountNamed(tx, name)
		return err
	})
	return row.account(), named(err)
}

func (s *Service) selectAccountByID(ctx context.Context, id int64) (Account, error) {
	var row accountRow
	err := s.db.Read(ctx, func(tx *gorm.DB) error { return tx.Where("id = ?", id).Take(&row).Error })
	return row.account(), named(err)
}

// accountNamed asks the database only for names that an account can have: PostgreSQL takes no others as text.
func accountNamed(tx *gorm.DB, name string) (row accountRow, err error) {
	if !accountName.MatchString(name) {
		return row, gorm.ErrRecordNotFound
	}
	err = tx.Where("name = ?", name).Take(&row).Error
	return row, err
}

// A change of an account's row returns the action to record, or nothing when there is nothing to change.
type change func(tx *gorm.DB, row *accountRow) (action string, detail map[string]any, err error)

// changeAccount locks an account and writes what a change makes of its row.
func (s *Service) changeAccount(ctx context.Context, by Actor, name string, change change) error {
	return named(s.db.Write(ctx, func(tx *gorm.DB) error {
		row, err := accountNamed(locked(tx), name)
		if err != nil {
			return err
		}
		action, detail, err := change(tx, &row)
		if err != nil || action == "" {
			return err
		}
		err = tx.Model(&row).Select("policy", "plan", "state", "state_ms").Updates(row).Error
		if err != nil {
			return err
		}
		return record(tx, s.now(), by, action, row.Name, row.Name, detail)
	}))
}

// locked keeps others from changing the rows that are read, until the transaction ends. SQLite has one writer anyway.
func locked(tx *gorm.DB) *gorm.DB {
	if tx.Name() == "sqlite" {
		return tx
	}
	return tx.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate})
}

func (s *Service) updatePolicy(ctx context.Context, by Actor, account, policy string) error {
	return s.changeAccount(ctx, by, account, func(_ *gorm.DB, row *accountRow) (string, map[string]any, error) {
		row.Policy = policy
		return actionAccountPolicy, map[string]any{"policy": policy}, nil
	})
}

func (s *Service) updatePlan(ctx context.Context, by Actor, account, plan string) error {
	return s.changeAccount(ctx, by, account, func(tx *gorm.DB, row *accountRow) (string, map[string]any, error) {
		if _, err := planNamed(tx, plan); err != nil {
			return "", nil, err
		}
		detail := map[string]any{"plan": plan, "before": row.Plan}
		before := row.Plan
		row.Plan = plan
		if before == plan {
			return actionAccountPlan, detail, nil
		}
		return actionAccountPlan, detail, s.endAccountPlan(tx, row.ID, before)
	})
}

func (s *Service) updateState(ctx context.Context, by Actor, account string, state State) error {
	return s.changeAccount(ctx, by, account, func(tx *gorm.DB, row *accountRow) (string, map[string]any, error) {
		switch row.State {
		case state:
			return "", nil, nil
		case Closed:
			return "", nil, ErrClosed
		case Active, Suspended:
		}
		now := s.now().UnixMilli()
		detail := map[string]any{"state": state, "before": row.State}
		row.State, row.StateMS = state, now
		if state != Closed {
			return actionAccountState, detail, nil
		}
		return actionAccountState, detail, tx.Model(&tokenRow{}).Where("account_id = ? AND revoked_ms IS NULL", row.ID).Update("revoked_ms", now).Error
	})
}

// named gives the database's answers the names of this package.
func named(err error) error {
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound), errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case errors.Is(err, gorm.ErrDuplicatedKey):
		return ErrExists
	}
	return err
}
