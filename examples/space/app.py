"""The app as a Space: upload this folder, with README.md and requirements.txt."""

from optimum_snp.app import build_page


page = build_page(model="deit-tiny", folders=False)

if __name__ == "__main__":
    page.launch()
