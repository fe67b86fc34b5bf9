package auth

import (
	"encoding/json"

	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// lifetimeMigration keeps how long tokens were made for, and what they were rotated to. Rotation had moved the end of some:
// these were made for as long as the first token that they were rotated to.
func lifetimeMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_80_token_lifetime",
		Migrate: func(tx *gorm.DB) error {
			for _, statement := range []string{
				`ALTER TABLE tokens ADD COLUMN lifetime_ms BIGINT`,
				`ALTER TABLE tokens ADD COLUMN successor TEXT NOT NULL DEFAULT ''`,
				`UPDATE tokens SET lifetime_ms = expires_ms - created_ms WHERE expires_ms IS NOT NULL`,
			} {
				if err := tx.Exec(statement).Error; err != nil {
					return err
				}
			}
			var rotations []struct{ Subject, Detail string }
			// From the newest on, so that a token is right when the one that was rotated to it is looked at.
			err := tx.Raw(`SELECT subject, detail FROM audit WHERE action = 'token.rotate' ORDER BY id DESC`).Scan(&rotations).Error
			if err != nil {
				return err
			}
			newest := map[string]string{}
			for _, r := range rotations {
				var detail struct {
					To string `json:"to"`
				}
				if json.Unmarshal([]byte(r.Detail), &detail) != nil || detail.To == "" {
					continue
				}
				if newest[r.Subject] == "" {
					newest[r.Subject] = detail.To
				}
				err := tx.Exec(`UPDATE tokens SET successor = ?, lifetime_ms = (SELECT next.lifetime_ms FROM tokens next WHERE next.id = ?)
					WHERE id = ? AND EXISTS (SELECT 1 FROM tokens next WHERE next.id = ?)`, newest[r.Subject], detail.To, r.Subject, detail.To).Error
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// madeMigration has the tokens of an account found by when they were made.
func madeMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261130_81_tokens_made",
		Migrate: func(tx *gorm.DB) error {
			err := tx.Exec(`CREATE INDEX tokens_made ON tokens (account_id, created_ms)`).Error
			if err == nil {
				err = tx.Exec(`DROP INDEX tokens_account`).Error
			}
			return err
		},
	}
}
