package auth

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"time"

	"gorm.io/gorm"
)

type inviteRow struct {
	ID        string `gorm:"primaryKey"`
	Hash      string
	Label     string
	Plan      string
	UsesLeft  int64
	CreatedMS int64         `gorm:"column:created_ms"`
	ExpiresMS sql.NullInt64 `gorm:"column:expires_ms"`
	RevokedMS sql.NullInt64 `gorm:"column:revoked_ms"`
}

func (inviteRow) TableName() string { return "invites" }

func (r inviteRow) invite() Invite {
	return Invite{
		ID: r.ID, Label: r.Label, Plan: r.Plan, Left: r.UsesLeft, Created: time.UnixMilli(r.CreatedMS).UTC(),
		Expires: fromMS(r.ExpiresMS), Revoked: fromMS(r.RevokedMS),
	}
}

func (s *Service) insertInvite(ctx context.Context, by Actor, invite Invite, hash string) error {
	return named(s.db.Write(ctx, func(tx *gorm.DB) error {
		if _, err := planNamed(tx, invite.Plan); err != nil {
			return err
		}
		row := inviteRow{
			ID: invite.ID, Hash: hash, Label: invite.Label, Plan: invite.Plan, UsesLeft: invite.Left,
			CreatedMS: invite.Created.UnixMilli(), ExpiresMS: toMS(invite.Expires),
		}
		if err := tx.Create(&row).Error; err != nil {
			return err
		}
		return record(tx, invite.Created, by, actionInviteCreate, "", invite.ID,
			map[string]any{"label": invite.Label, "plan": invite.Plan, "uses": invite.Left})
	}))
}

func (s *Service) selectInvites(ctx context.Context) ([]Invite, error) {
	var rows []inviteRow
	err := s.db.Read(ctx, func(tx *gorm.DB) error { return tx.Order("created_ms, id").Find(&rows).Error })
	invites := make([]Invite, len(rows))
	for i, row := range rows {
		invites[i] = row.invite()
	}
	return invites, err
}

func (s *Service) markInviteRevoked(ctx context.Context, by Actor, id string, now time.Time) error {
	return named(s.db.Write(ctx, func(tx *gorm.DB) error {
		var row inviteRow
		if err := locked(tx).Where("id = ?", id).Take(&row).Error; err != nil || row.RevokedMS.Valid {
			return err
		}
		if err := tx.Model(&inviteRow{}).Where("id = ?", id).Update("revoked_ms", now.UnixMilli()).Error; err != nil {
			return err
		}
		return record(tx, now, by, actionInviteRevoke, "", id, map[string]any{"label": row.Label})
	}))
}

// insertRegistration creates an account with its first token, and completes what is known of them.
func (s *Service) insertRegistration(ctx context.Context, by Actor, r *Registration) error {
	return named(s.db.Write(ctx, func(tx *gorm.DB) error { return register(tx, by, actionAccountCreate, r, nil) }))
}

// insertInvited is insertRegistration for one use of the code with this hash. invalid is what is wrong with the
// registration, which only those learn who have a code that is valid.
func (s *Service) insertInvited(ctx context.Context, hash string, r *Registration, invalid error) error {
	now := s.now().UnixMilli()
	err := s.db.Write(ctx, func(tx *gorm.DB) error {
		var invite string
		err := tx.Raw(`UPDATE invites SET uses_left = uses_left - 1 WHERE hash = ? AND uses_left > 0 AND revoked_ms IS NULL
			AND (expires_ms IS NULL OR expires_ms > ?) RETURNING id, plan`, hash, now).Row().Scan(&invite, &r.Account.Plan)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoInvite
		}
		if err = errors.Join(err, invalid); err != nil {
			return err
		}
		return register(tx, Actor{}, actionAccountSignUp, r, map[string]any{"invite": invite})
	})
	return named(err)
}

// register inserts what newRegistration has drawn.
func register(tx *gorm.DB, by Actor, action string, r *Registration, detail map[string]any) error {
	account := Account{Name: r.Account.Name, Plan: r.Account.Plan}
	all := map[string]any{"token": r.Token.ID}
	maps.Copy(all, detail)
	if err := openAccount(tx, by, action, &account, r.Token.Created, all); err != nil {
		return err
	}
	r.Account = account
	return createToken(tx, account.ID, r.Token, digest(r.Text.Reveal()))
}
