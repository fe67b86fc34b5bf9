package pins

import (
	"github.com/go-gormigrate/gormigrate/v2"
	"gorm.io/gorm"
)

// heatMigration lets pins say whether they stay hot, and remembers how often DAGs are read.
func heatMigration() *gormigrate.Migration {
	return &gormigrate.Migration{
		ID: "20261128_70_heat",
		Migrate: func(tx *gorm.DB) error {
			return execute(tx, heatTables)
		},
	}
}

// root_heat holds what package heat remembers of a DAG, from its first read on; heat_clock is its clock, as JSON.
var heatTables = []string{
	`ALTER TABLE pins ADD COLUMN residence TEXT NOT NULL DEFAULT ''`,
	`CREATE INDEX pins_cold_only ON pins (root_id) WHERE residence = 'cold-only'`,
	`CREATE TABLE root_heat (
		root_id   BIGINT PRIMARY KEY REFERENCES roots (id) ON DELETE CASCADE,
		score     DOUBLE PRECISION NOT NULL,
		read_ms   BIGINT NOT NULL,
		base      DOUBLE PRECISION NOT NULL,
		let_go_ms BIGINT NOT NULL,
		returns   BIGINT NOT NULL
	)`,
	`INSERT INTO pin_settings (name, value) VALUES ('heat_clock', '')`,
}
