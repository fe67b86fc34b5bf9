package auth

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"gorm.io/gorm"
)

// record adds a change to the audit, in the transaction of the change.
func record(tx *gorm.DB, at time.Time, by Actor, action, account, subject string, detail map[string]any) error {
	text, err := json.Marshal(detail)
	if err != nil {
		return err
	}
	actor := sql.NullInt64{Int64: by.Account, Valid: by.Account != 0}
	return tx.Exec(`INSERT INTO audit (at_ms, actor_account, actor_token, action, account, subject, detail) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		at.UnixMilli(), actor, by.Token, action, account, subject, string(text)).Error
}

func (s *Service) selectAudit(ctx context.Context, account string, before int64, limit int) (entries []Entry, err error) {
	query := `SELECT u.id, u.at_ms, CASE WHEN u.actor_account IS NULL THEN ? ELSE coalesce(a.name, '') END, u.actor_token, u.action, u.account, u.subject, u.detail
		FROM audit u LEFT JOIN accounts a ON a.id = u.actor_account WHERE 1 = 1`
	args := []any{OperatorName}
	if account != "" {
		query, args = query+` AND u.account = ?`, append(args, account)
	}
	if before > 0 {
		query, args = query+` AND u.id < ?`, append(args, before)
	}
	err = s.db.Read(ctx, func(tx *gorm.DB) (err error) {
		entries = nil
		rows, err := tx.Raw(query+` ORDER BY u.id DESC LIMIT ?`, append(args, limit)...).Rows()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			var e Entry
			var at int64
			var detail string
			if err := rows.Scan(&e.ID, &at, &e.Actor, &e.Token, &e.Action, &e.Account, &e.Subject, &detail); err != nil {
				return err
			}
			e.At, e.Detail = time.UnixMilli(at).UTC(), json.RawMessage(detail)
			entries = append(entries, e)
		}
		return rows.Err()
	})
	return entries, err
}

// note records what was changed elsewhere.
func (s *Service) note(ctx context.Context, by Actor, action, account, subject string, detail map[string]any) error {
	now := s.now()
	return s.db.Write(ctx, func(tx *gorm.DB) error { return record(tx, now, by, action, account, subject, detail) })
}

func (s *Service) noteReading(ctx context.Context, by Actor, name string, now time.Time) (id int64, err error) {
	err = s.db.Write(ctx, func(tx *gorm.DB) error {
		row, err := accountNamed(tx, name)
		if err != nil {
			return err
		}
		id = row.ID
		return record(tx, now, by, actionAccountRead, row.Name, row.Name, map[string]any{})
	})
	return id, named(err)
}
