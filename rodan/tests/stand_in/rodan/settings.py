"""Django's and Celery's settings; all files are in the directory that STAND_IN names."""

import os

HOME = os.environ["STAND_IN"]
MEDIA_ROOT = os.path.join(HOME, "data")
SECRET_KEY = "for a test"
INSTALLED_APPS = ["rodan"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(HOME, "rodan.sqlite"),
        "OPTIONS": {"timeout": 60},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = True
