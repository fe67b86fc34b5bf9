package auth

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// historyMigration keeps what plans cost, and which plans accounts had, until they were changed.
func historyMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261129_71_plan_history",
		Migrate: func(tx *gorm.DB) error {
			for _, statement := range []string{
				`CREATE TABLE plan_history (
					name TEXT NOT NULL REFERENCES plans (name),
					until_ms BIGINT NOT NULL,
					limits TEXT NOT NULL,
					PRIMARY KEY (name, until_ms)
				)`,
				`CREATE TABLE account_plan_history (
					account_id BIGINT NOT NULL REFERENCES accounts (id),
					until_ms BIGINT NOT NULL,
					plan TEXT NOT NULL REFERENCES plans (name),
					PRIMARY KEY (account_id, until_ms)
				)`,
			} {
				if err := tx.Exec(statement).Error; err != nil {
					return err
				}
			}
			return nil
		},
	}
}
