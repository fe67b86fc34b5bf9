package auth

import (
	"encoding/json"
	"fmt"

	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// publicGraceDays is the grace period of Public until the operator sets another. It is part of a migration and never changes.
const publicGraceDays = `30`

// graceMigration gives Public a grace period. The other plans have none: what their accounts cannot pay for stays.
func graceMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_40_grace",
		Migrate: func(tx *gorm.DB) error {
			var before string
			if err := tx.Raw(`SELECT limits FROM plans WHERE name = ?`, Public).Row().Scan(&before); err != nil {
				return err
			}
			var limits map[string]json.RawMessage // as they are: what the operator has set stays
			if err := json.Unmarshal([]byte(before), &limits); err != nil {
				return fmt.Errorf("reading the limits of plan %s: %w", Public, err)
			}
			limits["grace_days"] = json.RawMessage(publicGraceDays)
			after, err := json.Marshal(limits)
			if err != nil {
				return err
			}
			return tx.Exec(`UPDATE plans SET limits = ? WHERE name = ?`, string(after), Public).Error
		},
	}
}
