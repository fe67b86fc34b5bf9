package auth

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"gorm.io/gorm"
)

// insertToken creates a token and names its account.
func (s *Service) insertToken(ctx context.Context, by Actor, account int64, token *Token, hash string) error {
	return named(s.db.Write(ctx, func(tx *gorm.DB) error {
		if by.Account != 0 && by.Account != account {
			return ErrNotFound
		}
		owner, err := ownerOf(tx, by, account, token.Created)
		if err != nil {
			return err
		}
		token.Account = owner.Name
		if err := createToken(tx, account, *token, hash); err != nil {
			return err
		}
		return record(tx, token.Created, by, actionTokenCreate, owner.Name, token.ID, tokenDetail(*token))
	}))
}

const stillValid = `revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > ?)`

// ownerOf locks the account of a new token, so that two tokens are counted one after the other, and a closed account
// gets none.
func ownerOf(tx *gorm.DB, by Actor, account int64, now time.Time) (owner accountRow, err error) {
	if err := locked(tx).Where("id = ?", account).Take(&owner).Error; err != nil {
		return owner, err
	}
	if owner.State == Closed {
		return owner, ErrClosed
	}
	var valid, made int64
	err = tx.Model(&tokenRow{}).Where("account_id = ? AND "+stillValid, account, now.UnixMilli()).Count(&valid).Error
	if err == nil && by.Account != 0 {
		err = tx.Model(&tokenRow{}).Where("account_id = ? AND created_ms > ?", account, now.AddDate(0, 0, -1).UnixMilli()).Count(&made).Error
	}
	switch {
	case err != nil:
	case valid >= maxTokens:
		err = ErrTooMany
	case made >= maxMade:
		err = ErrTooOften
	}
	return owner, err
}

func createToken(tx *gorm.DB, account int64, token Token, hash string) error {
	return tx.Create(&tokenRow{
		ID: token.ID, AccountID: account, Label: token.Label, Policy: token.Policy, Scopes: token.Scopes.String(), Hash: hash,
		CreatedMS: token.Created.UnixMilli(), ExpiresMS: toMS(token.Expires),
		LifetimeMS: sql.NullInt64{Int64: token.Expires.Sub(token.Created).Milliseconds(), Valid: !token.Expires.IsZero()},
	}).Error
}

func tokenDetail(t Token) map[string]any {
	detail := map[string]any{"label": t.Label, "scopes": t.Scopes.Names()}
	if !t.Expires.IsZero() {
		detail["expires"] = t.Expires
	}
	if t.Policy != "" {
		detail["policy"] = t.Policy
	}
	return detail
}

// insertFirst creates the token's account and the token unless there is any account.
func (s *Service) insertFirst(ctx context.Context, token Token, hash string) (created bool, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		created = false
		var accounts int64
		if err := tx.Model(&accountRow{}).Limit(1).Count(&accounts).Error; err != nil || accounts > 0 {
			return err
		}
		account := Account{Name: token.Account, Plan: Trusted}
		if err := openAccount(tx, Operator(), actionAccountCreate, &account, token.Created, map[string]any{"token": token.ID}); err != nil {
			return err
		}
		created = true
		return createToken(tx, account.ID, token, hash)
	})
	if errors.Is(err, gorm.ErrDuplicatedKey) {
		return false, nil // another server on the same database was first
	}
	return created && err == nil, err
}

// tokenOf reads a token that the actor may change.
func tokenOf(tx *gorm.DB, by Actor, id string) (row tokenRow, err error) {
	found := tx.Where("id = ?", id)
	if by.Account != 0 {
		found = found.Where("account_id = ?", by.Account)
	}
	err = found.Take(&row).Error
	return row, err
}

// replaceToken creates a token like another, which then expires, and with it the one that it was replaced by before, unless
// that was used; before is its id. It completes what is known of the new one.
func (s *Service) replaceToken(ctx context.Context, by Actor, id string, grace time.Duration, token *Token, hash string) (before string, err error) {
	err = named(s.db.Write(ctx, func(tx *gorm.DB) error {
		before = ""
		row, err := tokenOf(tx, by, id)
		if err != nil {
			return err
		}
		// The account before the token, as when an account is closed. Whose a token is never changes.
		owner, err := ownerOf(tx, by, row.AccountID, token.Created)
		if err != nil {
			return err
		}
		if row, err = tokenOf(locked(tx), by, id); err != nil {
			return err
		}
		old, err := row.token(owner.Name)
		now := token.Created
		switch {
		case err != nil:
			return err
		case !old.Revoked.IsZero(), !old.Expires.IsZero() && !old.Expires.After(now):
			return ErrNotFound
		case !by.Scopes.Has(old.Scopes):
			return ErrScope
		}
		token.Account, token.Label, token.Policy, token.Scopes = owner.Name, old.Label, old.Policy, old.Scopes
		ends := now.Add(grace)
		if !old.Expires.IsZero() && old.Expires.Before(ends) {
			ends = old.Expires
		}
		token.Expires = time.Time{}
		if row.LifetimeMS.Valid {
			token.Expires = now.Add(time.Duration(row.LifetimeMS.Int64) * time.Millisecond)
		}
		if err := createToken(tx, row.AccountID, *token, hash); err != nil {
			return err
		}
		err = tx.Model(&tokenRow{}).Where("id = ?", row.ID).Updates(map[string]any{"expires_ms": toMS(ends), "successor": token.ID}).Error
		if err != nil {
			return err
		}
		detail := map[string]any{"to": token.ID, "expires": ends}
		if before, err = endUnused(tx, row.Successor, ends); err != nil {
			return err
		}
		if before != "" {
			detail["unused"] = before
		}
		return record(tx, now, by, actionTokenRotate, owner.Name, row.ID, detail)
	}))
	return before, err
}

// endUnused lets a token end at a time that nobody is known to have used, and returns its id when it does: the answer that
// had its text may have been lost. It is not revoked at once, for what was used is written down a minute late.
func endUnused(tx *gorm.DB, id string, ends time.Time) (string, error) {
	if id == "" {
		return "", nil
	}
	done := tx.Model(&tokenRow{}).
		Where("id = ? AND used_ms IS NULL AND "+stillValid, id, ends.UnixMilli()).
		Update("expires_ms", toMS(ends))
	if done.Error != nil || done.RowsAffected == 0 {
		return "", done.Error
	}
	return id, nil
}

func (s *Service) markRevoked(ctx context.Context, by Actor, id string, now time.Time) error {
	return named(s.db.Write(ctx, func(tx *gorm.DB) error {
		row, err := tokenOf(locked(tx), by, id)
		if err != nil || row.RevokedMS.Valid {
			return err
		}
		var owner accountRow
		if err := tx.Where("id = ?", row.AccountID).Take(&owner).Error; err != nil {
			return err
		}
		if err := tx.Model(&tokenRow{}).Where("id = ?", id).Update("revoked_ms", now.UnixMilli()).Error; err != nil {
			return err
		}
		return record(tx, now, by, actionTokenRevoke, owner.Name, id, map[string]any{"label": row.Label})
	}))
}

func (s *Service) selectTokens(ctx context.Context, account string) ([]Token, error) {
	var tokens []Token
	err := s.db.Read(ctx, func(tx *gorm.DB) error {
		var accounts []accountRow
		query := tx.Order("created_ms, id")
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
			query = query.Where("account_id = ?", row.ID)
		}
		var err error
		tokens, err = findTokens(query, accounts)
		return err
	})
	return tokens, named(err)
}

// selectAccountTokens returns those that are valid, which are maxTokens at most, and as many of those that have expired last.
func (s *Service) selectAccountTokens(ctx context.Context, account int64) (tokens []Token, err error) {
	err = s.db.Read(ctx, func(tx *gorm.DB) error {
		var owner accountRow
		if err := tx.Where("id = ?", account).Take(&owner).Error; err != nil {
			return err
		}
		now := s.now().UnixMilli()
		tokens, err = findTokens(tx.Where(`account_id = ? AND (`+stillValid+` OR id IN (SELECT id FROM tokens
			WHERE account_id = ? AND revoked_ms IS NULL AND expires_ms <= ? ORDER BY expires_ms DESC, id LIMIT ?))`,
			account, now, account, now, maxTokens).Order("created_ms, id"), []accountRow{owner})
		return err
	})
	return tokens, named(err)
}

// findTokens runs a query for tokens of these accounts.
func findTokens(query *gorm.DB, accounts []accountRow) ([]Token, error) {
	names := make(map[int64]string, len(accounts))
	for _, row := range accounts {
		names[row.ID] = row.Name
	}
	var rows []tokenRow
	if err := query.Find(&rows).Error; err != nil {
		return nil, err
	}
	tokens := make([]Token, len(rows))
	for i, row := range rows {
		var err error
		if tokens[i], err = row.token(names[row.AccountID]); err != nil {
			return nil, err
		}
	}
	return tokens, nil
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

// selectCredential is part of every request, hence plain SQL and no reflection. It returns an empty credential with
// ErrNotFound.
func (s *Service) selectCredential(ctx context.Context, id string) (*credential, error) {
	var found *credential
	var scopes, limits string
	err := s.db.Read(ctx, func(tx *gorm.DB) error {
		found = &credential{caller: Caller{Token: id}}
		var expires, revoked sql.NullInt64
		row := tx.Raw(`SELECT t.account_id, a.policy, t.policy, t.scopes, a.state, a.plan, p.limits, t.hash, t.expires_ms, t.revoked_ms
			FROM tokens t JOIN accounts a ON a.id = t.account_id JOIN plans p ON p.name = a.plan WHERE t.id = ?`, id).Row()
		c := &found.caller
		err := row.Scan(&c.Account, &c.AccountPolicy, &c.TokenPolicy, &scopes, &c.State, &c.Plan, &limits, &found.hash, &expires, &revoked)
		if err != nil {
			return err
		}
		found.revoked, found.expires = revoked.Valid, expires.Int64
		return nil
	})
	if err != nil {
		return found, named(err)
	}
	if found.caller.Scopes, err = ParseScopes(strings.Fields(scopes)); err != nil {
		return found, err
	}
	if found.caller.Limits, err = s.limitsOf(limits); err != nil {
		return found, fmt.Errorf("plan %q: %w", found.caller.Plan, err)
	}
	return found, nil
}

// updateUses writes when tokens were used last.
func (s *Service) updateUses(ctx context.Context, ids []string, at map[string]int64) error {
	return s.db.Write(ctx, func(tx *gorm.DB) error {
		for _, id := range ids {
			err := tx.Exec(`UPDATE tokens SET used_ms = ? WHERE id = ? AND (used_ms IS NULL OR used_ms < ?)`, at[id], id, at[id]).Error
			if err != nil {
				return err
			}
		}
		return nil
	})
}
