"""Constraints for pip: of what setup.cfg requires, the oldest versions that it allows."""

import configparser
import pathlib

config = configparser.ConfigParser()
config.read(pathlib.Path(__file__).parent.parent / "setup.cfg")
for line in config["options"]["install_requires"].split("\n"):
    if ">=" in line:
        print(line.replace(">=", "=="))
