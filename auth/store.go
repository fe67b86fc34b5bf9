package auth

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"gorm.io/gorm"
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
	CreatedMS int64 `gorm:"column:created_ms"`
}

func (accountRow) TableName() string { return "accounts" }

func (r accountRow) account() Account {
	return Account{ID: r.ID, Name: r.Name, Policy: r.Policy, Created: time.UnixMilli(r.CreatedMS).UTC()}
}

type tokenRow struct {
	ID        string `gorm:"primaryKey"`
	AccountID int64
	Label     string
	Policy    string
	Hash      string
	CreatedMS int64         `gorm:"column:created_ms"`
	RevokedMS sql.NullInt64 `gorm:"column:revoked_ms"`
}

func (tokenRow) TableName() string { return "tokens" }

func (r tokenRow) token(account string) Token {
	t := Token{ID: r.ID, Account: account, Label: r.Label, Policy: r.Policy, Created: time.UnixMilli(r.CreatedMS).UTC()}
	if r.RevokedMS.Valid {
		t.Revoked = time.UnixMilli(r.RevokedMS.Int64).UTC()
	}
	return t
}

// A credential is what Authenticate needs of a token.
type credential struct {
	caller  Caller
	hash    string
	revoked bool
	read    time.Time // when it was about to be read from the database
}

func (s *Service) insertAccount(ctx context.Context, name string, now time.Time) (Account, error) {
	var row accountRow
	err := s.db.Write(ctx, func(tx *gorm.DB) error {
		row = accountRow{Name: name, CreatedMS: now.UnixMilli()}
		return tx.Create(&row).Error
	})
	return row.account(), named(err)
}

func (s *Service) selectAccounts(ctx context.Context) ([]Account, error) {
	var rows []accountRow
	err := s.db.Read(ctx, func(tx *gorm.DB) error { return tx.Order("id").Find(&rows).Error })
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

func accountNamed(tx *gorm.DB, name string) (row accountRow, err error) {
	err = tx.Where("name = ?", name).Take(&row).Error
	return row, err
}

func (s *Service) insertToken(ctx context.Context, token Token, hash string) error {
	return named(s.db.Write(ctx, func(tx *gorm.DB) error {
		account, err := accountNamed(tx, token.Account)
		if err != nil {
			return err
		}
		return createToken(tx, account.ID, token, hash)
	}))
}

func createToken(tx *gorm.DB, account int64, token Token, hash string) error {
	return tx.Create(&tokenRow{
		ID: token.ID, AccountID: account, Label: token.Label, Policy: token.Policy, Hash: hash, CreatedMS: token.Created.UnixMilli(),
	}).Error
}

// insertFirst creates the token's account and the token unless there is any account.
func (s *Service) insertFirst(ctx context.Context, token Token, hash string) (created bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		created = false
		var accounts int64
		if err := tx.Model(&accountRow{}).Limit(1).Count(&accounts).Error; err != nil || accounts > 0 {
			return err
		}
		row := accountRow{Name: token.Account, CreatedMS: token.Created.UnixMilli()}
		if err := tx.Create(&row).Error; err != nil {
			return err
		}
		created = true
		return createToken(tx, row.ID, token, hash)
	})
	if errors.Is(err, gorm.ErrDuplicatedKey) {
		return false, nil // another server on the same database was first
	}
	return created && err == nil, err
}

func (s *Service) selectTokens(ctx context.Context, account string) ([]Token, error) {
	var tokens []Token
	err := s.db.Read(ctx, func(tx *gorm.DB) error {
		var accounts []accountRow
		if account == "" {
			if err := tx.Find(&accounts).Error; err != nil {
				return err
			}
		} else {
			row, err := accountNamed(tx, account)
			if err != nil {
				return err
			}
			accounts = append(accounts, row)
		}
		names := make(map[int64]string, len(accounts))
		for _, row := range accounts {
			names[row.ID] = row.Name
		}
		query := tx.Order("created_ms, id")
		if account != "" {
			query = query.Where("account_id = ?", accounts[0].ID)
		}
		var rows []tokenRow
		if err := query.Find(&rows).Error; err != nil {
			return err
		}
		tokens = make([]Token, len(rows))
		for i, row := range rows {
			tokens[i] = row.token(names[row.AccountID])
		}
		return nil
	})
	return tokens, named(err)
}

func (s *Service) markRevoked(ctx context.Context, id string, now time.Time) error {
	return named(s.db.Write(ctx, func(tx *gorm.DB) error {
		updated := tx.Model(&tokenRow{}).Where("id = ?", strings.ToLower(id)).
			Update("revoked_ms", gorm.Expr("coalesce(revoked_ms, ?)", now.UnixMilli()))
		if updated.Error == nil && updated.RowsAffected == 0 {
			return ErrNotFound
		}
		return updated.Error
	}))
}

func (s *Service) updatePolicy(ctx context.Context, account, policy string) error {
	return named(s.db.Write(ctx, func(tx *gorm.DB) error {
		updated := tx.Model(&accountRow{}).Where("name = ?", account).Update("policy", policy)
		if updated.Error == nil && updated.RowsAffected == 0 {
			return ErrNotFound
		}
		return updated.Error
	}))
}

func (s *Service) countPolicy(ctx context.Context, policy string) (use PolicyUse, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		use = PolicyUse{}
		if err := tx.Model(&accountRow{}).Where("policy = ?", policy).Count(&use.Accounts).Error; err != nil {
			return err
		}
		return tx.Model(&tokenRow{}).Where("policy = ? AND revoked_ms IS NULL", policy).Count(&use.Tokens).Error
	})
	return use, err
}

// selectCredential is part of every request, hence plain SQL and no reflection.
func (s *Service) selectCredential(ctx context.Context, id string) (found credential, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		var revoked sql.NullInt64
		row := tx.Raw("SELECT t.account_id, a.policy, t.policy, t.hash, t.revoked_ms FROM tokens t JOIN accounts a ON a.id = t.account_id WHERE t.id = ?", id).Row()
		c := &found.caller
		if err := row.Scan(&c.Account, &c.AccountPolicy, &c.TokenPolicy, &found.hash, &revoked); err != nil {
			return err
		}
		found.revoked = revoked.Valid
		return nil
	})
	return found, named(err)
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
