package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// refusalsMigration is for what each account is told of a DAG that none of several can have, where that is not the same for
// all. Only roots that were given up for it have any, and most of them have none.
func refusalsMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261130_10_refusals",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, []string{
				`CREATE TABLE refusals (
					root_id BIGINT NOT NULL REFERENCES roots (id) ON DELETE CASCADE,
					account BIGINT NOT NULL,
					reason  TEXT   NOT NULL,
					PRIMARY KEY (root_id, account)
				)`,
			})
		},
	}
}
