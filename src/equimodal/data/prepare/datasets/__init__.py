"""One file per dataset, imported when it is asked for, and its facts."""
