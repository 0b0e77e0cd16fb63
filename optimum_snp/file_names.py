"""The names of the files in the folders that this package writes."""

CONFIG_NAME = "snp_config.json"
PLAN_NAME = "pruning_plan.json"
MEASUREMENTS_NAME = "snp_measurements.json"
CARD_NAME = "README.md"
EXPORT_NAME = "snp_export.json"
