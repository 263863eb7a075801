"""Names of the older tools' environment variables that the runner reads."""

FLAGS = ("ENABLE_HYBRID", "FORCE_STUDENT_STUB", "STUDENT_LOAD_IN_4BIT", "STUDENT_FORCE_CPU")
NAMES = (*FLAGS, "STUDENT_BASE_MODEL", "STUDENT_LORA_DIR", "STUDENT_MAX_NEW_TOKENS", "BASE_URL")
