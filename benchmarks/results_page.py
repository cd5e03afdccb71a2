"""stub"""
from pathlib import Path
def readme_table(rows): return ""
def write_page(page, size, rows):
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(f"{n}: {[ (r.seed, round(r.metric('bbox','AP'),1), round(r.metric('segm','AP'),1)) for r in v]}" for n,v in rows.items())+"\n")
